"""The content of a run's report, as text and small tables: the summary and the page only lay it out.

Texts may come from the database (symbols) or from a file: control characters are replaced, so that a terminal cannot
obey them. They are not escaped for HTML; the page does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any

from retrain_worker.domain.gates import GateOutcome, GateResult
from retrain_worker.domain.lifecycle import Outcome, Stage
from retrain_worker.report.formatting import NOTHING, count, duration, number, plain, share

Pairs = tuple[tuple[str, str], ...]

#: how an outcome, a gate or a finding is coloured and marked
GOOD, BAD, OPEN, QUIET = "good", "bad", "open", "quiet"
MARKS = {GOOD: "✔", BAD: "✘", OPEN: "?", QUIET: "·"}
GATE_TONES = {GateOutcome.PASS: GOOD, GateOutcome.FAIL: BAD, GateOutcome.UNDECIDED: OPEN}

_TONES = {
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


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """One measurement of candidate and incumbent on the same rows; `best` is that of the Bayes-optimal model."""

    name: str
    candidate: str
    incumbent: str
    best: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassLine:
    """One part of the labelled samples."""

    name: str
    win: str
    loss: str
    win_share: str


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A run at a glance. Empty tuples: the run ended before."""

    outcome: str
    tone: str
    message: str
    reasons: tuple[str, ...]
    next_step: str
    rows: Pairs
    classes: tuple[ClassLine, ...]
    scores: tuple[ScoreLine, ...]
    #: rows that candidate and incumbent were measured on
    holdout_rows: str
    has_incumbent: bool
    incumbent_absence: str
    gates: tuple[GateResult, ...]
    #: PATCHTST_MODEL_PATH before and now
    slot: Pairs
    #: shadow trial, probation, forced promotion
    trials: Pairs
    event: Pairs
    #: version, answered, failed, slowest
    answers: tuple[tuple[str, str, str, str], ...]
    files: Pairs
    seconds: str


def overview(
    result: Mapping[str, Any], *, bayes_auc: float | None = None, event: Mapping[str, Any] | None = None
) -> Overview:
    """The overview of `result` (report.result).

    `bayes_auc`: the Bayes-optimal AUC on the holdout, where it is known. `event`: name -> value of the promotion as a
    consumer received it. `result["engine"]`, if present: version -> {answered, failed, slowest_seconds} of an engine
    that answered during the swap.
    """
    outcome = Outcome(result["outcome"]) if result.get("outcome") else None
    return Overview(
        outcome=outcome or "IN PROGRESS",
        tone=_TONES[outcome] if outcome else OPEN,
        message=_message(outcome, result),
        reasons=_reasons(outcome, result),
        next_step=_next_step(outcome, result),
        rows=_rows(result),
        classes=tuple(
            _class_line(title, result["parts"][name]) for name, title in _PARTS if name in result.get("parts", {})
        ),
        scores=_scores(result.get("candidate"), result.get("incumbent"), bayes_auc),
        holdout_rows=count((result.get("candidate") or {}).get("n")),
        has_incumbent=bool(result.get("incumbent")),
        incumbent_absence=plain(result.get("incumbent_absence") or ""),
        gates=printable(result.get("gates", ())),
        slot=_slot(outcome, result),
        trials=tuple((name, plain(text)) for name, text in result.get("trials", ())),
        event=tuple((plain(name), plain(value)) for name, value in (event or {}).items() if value is not None),
        answers=tuple(_answers(version, tally) for version, tally in (result.get("engine") or {}).items()),
        files=_files(result),
        seconds=_seconds(result.get("seconds", {})),
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


def _message(outcome: Outcome | None, result: Mapping[str, Any]) -> str:
    stage, unchanged = str(result.get("stage") or "").lower(), _unchanged(result)
    if outcome is Outcome.REFUSED and result.get("gates"):
        return f"The candidate did not pass the gates; {unchanged}."
    messages = {
        None: f"The run is in progress; the next stage is {stage}.",
        Outcome.PROMOTED: f"{_model_name(result.get('model_path'))} is in the engine's slot; {_confirmation(result)}.",
        Outcome.REFUSED: f"The data is not fit to train on, or no candidate could be trained; {unchanged}.",
        Outcome.SKIPPED: f"There are too few new outcomes for a run; {unchanged}.",
        Outcome.FAILED: f"The stage {stage} failed; {unchanged}.",
        Outcome.INTERRUPTED: f"The run was stopped in the stage {stage}; {unchanged}.",
        Outcome.ABANDONED: f"The run was interrupted too often in the stage {stage} and is abandoned; {unchanged}.",
        Outcome.ROLLED_BACK: f"The candidate was promoted and rolled back; {unchanged}.",
    }
    return messages[outcome]


def _confirmation(result: Mapping[str, Any]) -> str:
    how = plain(result.get("confirmation") or "no confirmation was requested")
    return f"confirmed: {how}" if result.get("confirmed") else f"not confirmed: {how}"


def _unchanged(result: Mapping[str, Any]) -> str:
    serving = result.get("previous_model_path")
    return f"{_model_name(serving)} keeps serving" if serving else "the engine's files are unchanged"


def _model_name(path: object) -> str:
    return plain(PurePath(str(path)).stem) if path else "no model"


def _reasons(outcome: Outcome | None, result: Mapping[str, Any]) -> tuple[str, ...]:
    """Why the run ended as it did, most important first. The message of a promotion says everything."""
    return () if outcome is Outcome.PROMOTED else tuple(plain(reason) for reason in result.get("reasons", ()))


def _next_step(outcome: Outcome | None, result: Mapping[str, Any]) -> str:
    if outcome is Outcome.REFUSED and result.get("gates"):
        return (
            "The next run trains on the rows that have arrived by then. The refused candidate stays in its run folder."
        )
    steps = {
        Outcome.PROMOTED: "The engine's other settings, PATCHTST_SHADOW_ONLY among them, are unchanged.",
        Outcome.REFUSED: "Correct what the reasons name; the next run reads the data again.",
        Outcome.SKIPPED: "The next run counts again; MIN_NEW_SAMPLES is the number of new outcomes that it requires.",
        Outcome.FAILED: "The next run starts from the beginning; `retrain-worker check` lists what is missing.",
        Outcome.INTERRUPTED: "The next start resumes this stage.",
        Outcome.ABANDONED: "The next run starts from the beginning; the log has the cause of each interruption.",
        Outcome.ROLLED_BACK: "The next run trains on the rows that have arrived by then.",
    }
    return steps[outcome] if outcome else ""


# ---------------------------------------------------------------- tables


def _rows(result: Mapping[str, Any]) -> Pairs:
    rows: Mapping[str, Any] = result.get("rows") or {}
    if not rows:
        return ()
    read = [
        f"{count(rows.get('loaded'))} read",
        f"{count(rows.get('labelled'))} labelled",
        f"{count(rows.get('win'))} WIN",
        f"{count(rows.get('loss'))} LOSS",
    ]
    unused = [
        f"{count(rows.get('open'))} without a usable label",
        f"{count(rows.get('contradictions'))} with a label that contradicts its profit",
    ]
    unused += [f"{count(number_left)} {plain(reason)}" for reason, number_left in rows.get("quarantined", {}).items()]
    left_out = [f"{count(left)} {plain(reason)}" for reason, left in result.get("left_out", {}).items()]
    symbols = [f"{plain(name)} {count(rows_of)}" for name, rows_of in result.get("symbols", {}).items()]
    found = [
        ("rows", _listed(read)),
        ("not used", _listed(unused)),
        ("excluded", _listed(left_out)),
        ("time", f"{_instant(result.get('first_at'))} to {_instant(result.get('last_at'))}"),
        ("symbols", _listed(symbols)),
        ("features", ", ".join(plain(name) for name in result.get("feature_names", ()))),
    ]
    return tuple((name, text) for name, text in found if text)


def _class_line(title: str, part: Mapping[str, int]) -> ClassLine:
    win, loss = part.get("win", 0), part.get("loss", 0)
    return ClassLine(
        name=title, win=count(win), loss=count(loss), win_share=share(win / (win + loss)) if win + loss else NOTHING
    )


def _scores(
    candidate: Mapping[str, Any] | None, incumbent: Mapping[str, Any] | None, bayes_auc: float | None
) -> tuple[ScoreLine, ...]:
    if not candidate:
        return ()
    other = incumbent or {}

    def line(name: str, key: str) -> ScoreLine:
        return ScoreLine(name=name, candidate=number(candidate.get(key)), incumbent=number(other.get(key)))

    auc = ScoreLine(
        name="AUC",
        candidate=number(candidate.get("auc")),
        incumbent=number(other.get("auc")),
        best="" if bayes_auc is None else number(bayes_auc),
    )
    actions = ScoreLine(name="BUY / HOLD / SELL", candidate=_actions(candidate), incumbent=_actions(other))
    return (
        auc,
        line("log loss", "log_loss"),
        line("Brier score", "brier"),
        line("ECE", "ece"),
        line("accuracy", "accuracy"),
        line("std of P(WIN)", "p_std"),
        actions,
    )


def _actions(card: Mapping[str, Any]) -> str:
    actions = card.get("actions") or {}
    return " / ".join(share(actions.get(name)) for name in ("BUY", "HOLD", "SELL")) if actions else NOTHING


def _slot(outcome: Outcome | None, result: Mapping[str, Any]) -> Pairs:
    """PATCHTST_MODEL_PATH before and now. Only a promotion changes it."""
    before = plain(result.get("previous_model_path") or "not set")
    if result.get("model_path") and outcome is Outcome.PROMOTED:
        return (("before", before), ("now", plain(result["model_path"])))
    return (("unchanged", before),)


def _answers(version: str, tally: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return (
        plain(version),
        count(tally.get("answered")),
        count(tally.get("failed")),
        duration(tally.get("slowest_seconds")),
    )


def _files(result: Mapping[str, Any]) -> Pairs:
    # of a promoted candidate, the copy in the engine's directory is the one that counts
    candidate = None if result.get("model_path") else result.get("candidate_path")
    found = (
        ("model", result.get("model_path")),
        ("sha256", result.get("sha256")),
        ("candidate", candidate),
        ("report", result.get("report")),
    )
    return tuple((name, plain(value)) for name, value in found if value)


def _seconds(seconds: Mapping[str, float]) -> str:
    stages = [f"{stage.lower()} {duration(seconds[stage.lower()])}" for stage in Stage if stage.lower() in seconds]
    return _listed([*stages, f"total {duration(sum(seconds.values()))}"]) if stages else ""


def _instant(text: str | None) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC") if text else NOTHING


def _listed(texts: Iterable[str]) -> str:
    return " · ".join(texts)
