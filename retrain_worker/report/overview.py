"""The content of a run's report, as text and small tables: the summary and the page only lay it out.

Texts may come from the database (symbols) or from a file: control characters are replaced, so that a terminal cannot
obey them. They are not escaped for HTML; the page does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath

from retrain_worker.domain.audit_findings import Severity
from retrain_worker.domain.facts import PullFacts, TrainFacts
from retrain_worker.domain.gates import GateOutcome, GateResult, Scorecard
from retrain_worker.domain.host_names import command
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.report_request import EngineTraffic
from retrain_worker.report.formatting import NOTHING, count, duration, number, plain, share
from retrain_worker.report.live_evaluation import trial_pairs
from retrain_worker.report.result import RunResult

Pairs = tuple[tuple[str, str], ...]

#: how an outcome, a gate or a finding is coloured and marked
GOOD, WARN, BAD, OPEN, QUIET = "good", "warn", "bad", "open", "quiet"
MARKS = {GOOD: "✔", WARN: "!", BAD: "✘", OPEN: "?", QUIET: "·"}
#: tone -> colour
STYLES = {GOOD: "green", WARN: "yellow", BAD: "red", OPEN: "yellow", QUIET: "cyan"}
GATE_TONES = {GateOutcome.PASS: GOOD, GateOutcome.FAIL: BAD, GateOutcome.UNDECIDED: OPEN}

#: the finding of the audit on the age of the newest labelled row
_STALENESS = "time.staleness"
#: None: the run is in progress
TONES = {
    None: OPEN,
    Outcome.PROMOTED: GOOD,
    Outcome.REFUSED: BAD,
    Outcome.FAILED: BAD,
    Outcome.ABANDONED: BAD,
    Outcome.ROLLED_BACK: BAD,
    Outcome.SKIPPED: QUIET,
    Outcome.INTERRUPTED: OPEN,
}
_PARTS = (
    ("train", "training"),
    ("train_balanced", "training, balanced"),
    ("validation", "validation"),
    ("holdout", "holdout"),
)
_SCORES = (
    ("auc", "AUC"),
    ("log_loss", "log loss"),
    ("brier", "Brier score"),
    ("ece", "ECE"),
    ("accuracy", "accuracy"),
    ("p_std", "std of P(WIN)"),
)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A table of text: the first column is a name, the others are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_first_row_bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A run at a glance. Empty tuples and None: the run ended before."""

    outcome: str
    #: of a promotion: confirmed or not, on probation
    qualifier: str
    tone: str
    message: str
    reasons: tuple[str, ...]
    #: what limits the outcome: warnings of the audit, a missing confirmation, a forced promotion
    warnings: tuple[str, ...]
    next_step: str
    rows: Pairs
    classes: Cells | None
    #: candidate, incumbent, trivial baseline, Bayes-optimal model on the same rows, and how many rows
    scores: Cells | None
    holdout_rows: str
    incumbent_absence: str
    gates: tuple[GateResult, ...]
    #: PATCHTST_MODEL_PATH before and now
    slot: Pairs
    #: shadow trial, probation, forced promotion
    trials: Pairs
    event: Pairs
    #: answers of the engine by model
    traffic: Cells | None
    files: Pairs
    seconds: str


def overview(result: RunResult) -> Overview:
    """The overview of a run."""
    run, facts, gated = result.run, result.run.facts, result.run.facts.gate
    return Overview(
        outcome=run.outcome or "IN PROGRESS",
        qualifier=_qualifier(run),
        tone=_tone(run),
        warnings=tuple(_warnings(run)),
        message=_message(result),
        # the message of a promotion has all of it
        reasons=() if run.outcome is Outcome.PROMOTED else tuple(plain(reason) for reason in run.reasons),
        next_step=_next_step(run),
        rows=_rows(facts.pull, facts.train) if facts.pull else (),
        classes=_classes(facts.train) if facts.train else None,
        scores=_scores(result.candidate, result.incumbent, facts.train, result.bayes_auc) if result.candidate else None,
        holdout_rows=count(result.candidate.n if result.candidate else None),
        incumbent_absence=plain(gated.incumbent_absence) if gated else "",
        gates=printable(gated.verdict.gates) if gated else (),
        slot=_slot(result),
        trials=tuple((name, plain(text)) for name, text in trial_pairs(run)),
        event=tuple((plain(name), plain(value)) for name, value in result.event.items() if value is not None),
        traffic=_traffic(result.engine) if result.engine else None,
        files=_files(result),
        seconds=_seconds(run.seconds),
    )


def printable(gates: Iterable[GateResult]) -> tuple[GateResult, ...]:
    """The same results without control characters."""
    return tuple(
        replace(
            gate,
            name=plain(gate.name),
            message=plain(gate.message),
            checks=tuple(replace(check, label=plain(check.label)) for check in gate.checks),
        )
        for gate in gates
    )


# ---------------------------------------------------------------- the outcome


def _message(result: RunResult) -> str:
    run, stage, unchanged = result.run, result.run.stage.lower(), _unchanged(result)
    if run.outcome is Outcome.REFUSED and run.facts.gate:
        return f"The candidate did not pass the gates; {unchanged}."
    if run.outcome is Outcome.SKIPPED and run.facts.gate:
        return f"The candidate is not promoted during a pause; {unchanged}."
    messages = {
        None: f"The run is in progress; the next stage is {stage}.",
        Outcome.PROMOTED: f"{_model_name(result.model_path)} is in the engine's slot; {_confirmation(run)}.",
        Outcome.REFUSED: f"The data is not fit to train on, or no candidate could be trained; {unchanged}.",
        Outcome.SKIPPED: f"There are too few new outcomes for a run; {unchanged}.",
        Outcome.FAILED: f"The stage {stage} failed; {unchanged}.",
        Outcome.INTERRUPTED: f"The run was stopped in the stage {stage}; {unchanged}.",
        Outcome.ABANDONED: f"The run was interrupted too often in the stage {stage} and is abandoned; {unchanged}.",
        Outcome.ROLLED_BACK: f"The candidate was promoted and rolled back; {unchanged}.",
    }
    return messages[run.outcome]


def _tone(run: Run) -> str:
    """A promotion is good when the engine was seen serving a model of recent rows that no operator has forced."""
    if run.outcome is not Outcome.PROMOTED:
        return TONES[run.outcome]
    promoted, gated, audited = run.facts.promote, run.facts.gate, run.facts.audit
    confirmed = promoted.confirmed if promoted else None
    is_stale = any(
        finding.name == _STALENESS and finding.severity is not Severity.OK
        for finding in (audited.findings if audited else ())
    )
    if is_stale or confirmed is False or (gated and gated.forced) or run.facts.unreadable:
        return WARN
    return GOOD if confirmed else QUIET


def _qualifier(run: Run) -> str:
    if run.outcome is not Outcome.PROMOTED:
        return ""
    promoted = run.facts.promote
    confirmed = promoted.confirmed if promoted else None
    how = {True: "confirmed", False: "not confirmed", None: "without confirmation"}[confirmed]
    return f"{how}, on probation" if run.stage is Stage.PROBATION and not run.is_finished else how


def _warnings(run: Run) -> Iterator[str]:
    facts, promoted, forced = run.facts, run.facts.promote, run.facts.gate.forced if run.facts.gate else None
    if run.outcome is Outcome.PROMOTED and promoted and promoted.confirmed is False:
        yield plain(f"the engine was not seen serving the model: {promoted.confirmation or 'no cause is known'}")
    if forced:
        yield plain(f"forced promotion by {forced.by}: {forced.reason}")
    for finding in facts.audit.findings if facts.audit else ():
        if finding.severity is Severity.WARNING:
            yield plain(finding.message)
    for name, cause in facts.unreadable.items():
        yield plain(f"what the stage {name} stored cannot be read: {cause}")


def _confirmation(run: Run) -> str:
    promoted = run.facts.promote
    how = plain((promoted and promoted.confirmation) or "no confirmation was requested")
    confirmed = promoted.confirmed if promoted else None
    return how if confirmed is None else f"confirmed: {how}" if confirmed else f"not confirmed: {how}"


def _unchanged(result: RunResult) -> str:
    serving = result.previous_model_path
    return f"{_model_name(serving)} keeps serving" if serving else "the engine's files are unchanged"


def _model_name(path: str | None) -> str:
    return plain(PurePath(path).stem) if path else "no model"


def _next_step(run: Run) -> str:
    if run.outcome is Outcome.REFUSED and run.facts.gate:
        return (
            f"`{command()} gates` shows how far each measurement is from its limit. The next run trains on the rows "
            "that have arrived by then. The refused candidate stays in its run folder."
        )
    if run.outcome is Outcome.SKIPPED and run.facts.gate:
        return f"`{command()} resume` ends the pause; the rows of this run are new for the next one."
    steps = {
        Outcome.PROMOTED: f"`{command()} rollback` returns the previous model. The engine's other settings, "
        "PATCHTST_SHADOW_ONLY among them, are unchanged.",
        Outcome.REFUSED: "Correct what the reasons name; the next run reads the data again.",
        Outcome.SKIPPED: "The next run counts again; MIN_NEW_SAMPLES is the number of new outcomes that it requires.",
        Outcome.FAILED: f"The next run starts from the beginning; `{command()} check` lists what is missing.",
        Outcome.INTERRUPTED: "The next start resumes this stage.",
        Outcome.ABANDONED: "The next run starts from the beginning; the log has the cause of each interruption.",
        Outcome.ROLLED_BACK: "The next run trains on the rows that have arrived by then.",
    }
    return steps[run.outcome] if run.outcome else ""


# ---------------------------------------------------------------- tables


def _rows(pulled: PullFacts, trained: TrainFacts | None) -> Pairs:
    rows = pulled.rows
    read = [
        f"{count(rows.loaded)} read",
        f"{count(rows.labelled)} labelled",
        f"{count(rows.win)} WIN",
        f"{count(rows.loss)} LOSS",
    ]
    unused = [
        f"{count(rows.open)} without a usable label",
        f"{count(rows.contradictions)} with a label that contradicts its profit",
    ]
    unused += [f"{count(number_left)} {plain(reason)}" for reason, number_left in rows.quarantined.items()]
    left_out = [
        f"{count(left)} {plain(reason.replace('_', ' '))}"
        for reason, left in (trained.left_out if trained else {}).items()
    ]
    found = [
        ("rows", _listed(read)),
        ("not used", _listed(unused)),
        ("excluded", _listed(left_out)),
        ("time", f"{_instant(pulled.first_at)} to {_instant(pulled.last_at)}"),
        ("symbols", _listed(f"{plain(name)} {count(rows_of)}" for name, rows_of in pulled.symbols.items())),
        ("features", ", ".join(plain(name) for name in pulled.feature_names)),
    ]
    return tuple((name, text) for name, text in found if text)


def _classes(trained: TrainFacts) -> Cells:
    rows = []
    for name, title in _PARTS:
        if (part := trained.parts.get(name)) is not None:
            win, loss = part.get("win", 0), part.get("loss", 0)
            rows.append((title, count(win), count(loss), share(win / (win + loss)) if win + loss else NOTHING))
    return Cells(head=("part", "WIN", "LOSS", "share of WIN"), rows=tuple(rows))


def _scores(
    candidate: Scorecard, incumbent: Scorecard | None, trained: TrainFacts | None, bayes_auc: float | None
) -> Cells:
    cards = {"candidate": candidate, **({"incumbent": incumbent} if incumbent else {})}
    base = baseline(candidate, trained.prior if trained else 0.5)
    head = ["", *cards, "baseline"]
    rows = [
        [title, *(number(getattr(card, name)) for card in cards.values()), number(base.get(name))]
        for name, title in _SCORES
    ]
    rows.append(["BUY / HOLD / SELL", *(actions(card.actions) for card in cards.values()), ""])
    if bayes_auc is not None:
        head.append("Bayes-optimal")
        for row in rows:
            row.append(number(bayes_auc) if row[0] == "AUC" else "")
    return Cells(head=tuple(head), rows=tuple(map(tuple, rows)), is_first_row_bold=True)


def baseline(candidate: Scorecard, prior: float) -> dict[str, float | None]:
    """The scores of the trivial model on the same rows: the prior of the training part, the commoner class."""
    wins = candidate.num_win / candidate.n if candidate.n else 0.5
    return {
        "auc": 0.5,
        "log_loss": candidate.prior_log_loss,
        "brier": wins * (1.0 - prior) ** 2 + (1.0 - wins) * prior**2,
        "ece": abs(wins - prior),
        "accuracy": max(wins, 1.0 - wins),
        "p_std": 0.0,
    }


def actions(shares: Mapping[str, float]) -> str:
    """The shares of BUY, HOLD and SELL."""
    return " / ".join(share(shares.get(name)) for name in ("BUY", "HOLD", "SELL"))


def _slot(result: RunResult) -> Pairs:
    """PATCHTST_MODEL_PATH before and now. Only a promotion changes it; AUDIT is the first stage that reads it."""
    facts = result.run.facts
    if not (facts.promote or facts.train or facts.audit):
        return ()
    before = plain(result.previous_model_path or "not set")
    if result.model_path and result.run.outcome is Outcome.PROMOTED:
        return (("before", before), ("now", plain(result.model_path)))
    return (("unchanged", before),)


def _traffic(engine: Mapping[str, EngineTraffic]) -> Cells:
    rows = tuple(
        (plain(version), count(traffic.answered), count(traffic.failed), duration(traffic.slowest_seconds))
        for version, traffic in engine.items()
    )
    return Cells(head=("model", "answered", "failed", "slowest"), rows=rows)


def _files(result: RunResult) -> Pairs:
    trained, promoted = result.run.facts.train, result.run.facts.promote
    found = (
        ("model", promoted and promoted.model_path),
        ("sha256", promoted and promoted.sha256),
        # of a promoted candidate, the copy in the engine's directory is the one that counts
        ("candidate", trained.candidate_path if trained and not promoted else None),
        ("report", result.report),
    )
    return tuple((name, plain(value)) for name, value in found if value)


def _seconds(seconds: Mapping[str, float]) -> str:
    stages = [f"{stage.lower()} {duration(seconds[stage.lower()])}" for stage in Stage if stage.lower() in seconds]
    return _listed([*stages, f"total {duration(sum(seconds.values()))}"]) if stages else ""


def _instant(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else NOTHING


def _listed(texts: Iterable[str]) -> str:
    return " · ".join(texts)
