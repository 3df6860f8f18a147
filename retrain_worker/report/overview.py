"""What a result says, in words and small tables: shared by the summary and the page, which only lay it out.

Everything here is text or numbers ready to show. Text may come from the database (symbols) or from a file: it is
cleaned of what a terminal would obey, but not escaped for HTML; the page does that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any

from retrain_worker.domain.lifecycle import Outcome, Stage
from retrain_worker.report.formatting import NOTHING, count, duration, number, plain, share
from retrain_worker.report.gate_checks import Check, checks_of

Pairs = tuple[tuple[str, str], ...]

#: how an outcome, a gate or a finding is to be felt
GOOD, BAD, OPEN, QUIET = "good", "bad", "open", "quiet"
MARKS = {GOOD: "✔", BAD: "✘", OPEN: "?", QUIET: "·"}

_TONES = {
    Outcome.PROMOTED: GOOD,
    Outcome.REFUSED: BAD,
    Outcome.FAILED: BAD,
    Outcome.ABANDONED: BAD,
    Outcome.ROLLED_BACK: BAD,
    Outcome.SKIPPED: QUIET,
    Outcome.INTERRUPTED: OPEN,
}
#: what it means that a gate did not pass
_FAULTS = {
    "contract": "the file does not fit what the engine runs",
    "action diversity": "it nearly always says the same action",
    "confidence spread": "it is equally sure of everything",
    "agreement": "it acts too unlike the ensemble, or too much like it",
    "calibration": "its probabilities do not mean what they say",
    "skill": "it knows nothing beyond luck",
    "incumbent": "it does not stand up to the model that serves",
    "stability": "it fails on a part of the rows",
}
_RESULT_TONES = {"PASS": GOOD, "FAIL": BAD, "UNDECIDED": OPEN}
_PARTS = (
    ("train", "training"),
    ("train_balanced", "training, balanced"),
    ("validation", "validation"),
    ("holdout", "holdout"),
)


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One gate: what was measured beside what is asked."""

    name: str
    tone: str
    #: False: shown, does not count
    counts: bool
    measured: str
    required: str
    message: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """One measurement of candidate and incumbent on the same rows; `best` is the best that anything can reach."""

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
    """A run at a glance. Empty tuples: the run did not come that far."""

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
    gates: tuple[GateLine, ...]
    #: PATCHTST_MODEL_PATH before and now
    slot: Pairs
    #: shadow trial, probation, a person's word
    trials: Pairs
    event: Pairs
    #: version, answered, failed, slowest
    answers: tuple[tuple[str, str, str, str], ...]
    files: Pairs
    seconds: str


def overview(
    result: Mapping[str, Any], *, bayes_auc: float | None = None, event: Mapping[str, Any] | None = None
) -> Overview:
    """What `result` (report.result) says.

    `bayes_auc`: the Bayes-optimal AUC on the holdout, where it is known. `event`: name -> value of the promotion as a
    consumer received it. `result["engine"]`, if it is there: version -> {answered, failed, slowest_seconds} of an
    engine that answered meanwhile.
    """
    outcome = Outcome(result["outcome"]) if result.get("outcome") else None
    return Overview(
        outcome=outcome or "UNDER WAY",
        tone=_TONES[outcome] if outcome else OPEN,
        message=_sentence(outcome, result),
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
        gates=gate_lines(result),
        slot=_slot(outcome, result),
        trials=tuple((name, plain(text)) for name, text in result.get("trials", ())),
        event=tuple((plain(name), plain(value)) for name, value in (event or {}).items() if value is not None),
        answers=tuple(_answers(version, tally) for version, tally in (result.get("engine") or {}).items()),
        files=_files(result),
        seconds=_seconds(result.get("seconds", {})),
    )


def gate_lines(result: Mapping[str, Any]) -> tuple[GateLine, ...]:
    """The gates of `result`, in their order."""
    return tuple(_gate_line(gate) for gate in result.get("gates", ()))


# ---------------------------------------------------------------- the outcome in words


def _sentence(outcome: Outcome | None, result: Mapping[str, Any]) -> str:
    stage, stays = str(result.get("stage") or "").lower(), _stays(result)
    if outcome is Outcome.REFUSED and result.get("gates"):
        return f"The candidate is not good enough; {stays}."
    said = {
        None: f"The run is under way; {stage} is due.",
        Outcome.PROMOTED: f"{_model_name(result.get('model_path'))} stands in the engine's slot; {_seen(result)}.",
        Outcome.REFUSED: f"The data is not fit to train on, or no candidate came out of it; {stays}.",
        Outcome.SKIPPED: f"Too little is new to be worth a run; {stays}.",
        Outcome.FAILED: f"Something broke in the stage {stage}; {stays}.",
        Outcome.INTERRUPTED: f"The run was stopped in the stage {stage}; {stays}.",
        Outcome.ABANDONED: f"The run was interrupted too often in the stage {stage} and is given up; {stays}.",
        Outcome.ROLLED_BACK: f"The candidate was promoted and taken back; {stays}.",
    }
    return said[outcome]


def _seen(result: Mapping[str, Any]) -> str:
    how = plain(result.get("confirmation") or "nobody was asked")
    return f"seen serving: {how}" if result.get("confirmed") else f"not confirmed: {how}"


def _stays(result: Mapping[str, Any]) -> str:
    serving = result.get("previous_model_path")
    return f"{_model_name(serving)} goes on serving" if serving else "the engine's files are as they were"


def _model_name(path: object) -> str:
    return plain(PurePath(str(path)).stem) if path else "no model"


def _reasons(outcome: Outcome | None, result: Mapping[str, Any]) -> tuple[str, ...]:
    """Why, the weightiest first. A promotion needs no excuse; its sentence says all."""
    if outcome is Outcome.PROMOTED:
        return ()
    undecided = {gate.get("name") for gate in result.get("gates", ()) if gate.get("result") == "UNDECIDED"}
    return tuple(_in_plain_words(plain(reason), undecided) for reason in result.get("reasons", ()))


def _in_plain_words(reason: str, undecided: Collection[str | None]) -> str:
    name, _, message = reason.partition(": ")
    if name not in _FAULTS:
        return reason
    return f"{name}: {'that cannot be told' if name in undecided else _FAULTS[name]} ({message})"


def _next_step(outcome: Outcome | None, result: Mapping[str, Any]) -> str:
    if outcome is Outcome.REFUSED and result.get("gates"):
        return (
            "The next run trains anew on the rows that have come by then. "
            "The refused candidate stays in its run folder, to be looked at."
        )
    steps = {
        Outcome.PROMOTED: "The engine's other settings, PATCHTST_SHADOW_ONLY among them, are as they were.",
        Outcome.REFUSED: "Mend what the reasons name; the next run looks at the data anew.",
        Outcome.SKIPPED: "The next run looks again; MIN_NEW_SAMPLES says how many new outcomes it asks for.",
        Outcome.FAILED: "The next run starts from the beginning; `retrain-worker check` says what is missing.",
        Outcome.INTERRUPTED: "The next start goes on with the same stage.",
        Outcome.ABANDONED: "The next run starts from the beginning; the log says what ended each attempt.",
        Outcome.ROLLED_BACK: "The next run trains anew on the rows that have come by then.",
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
    aside = [
        f"{count(rows.get('open'))} without a usable label",
        f"{count(rows.get('contradictions'))} whose label contradicts its profit",
    ]
    aside += [f"{count(number_left)} {plain(reason)}" for reason, number_left in rows.get("quarantined", {}).items()]
    left_out = [f"{count(left)} {plain(reason)}" for reason, left in result.get("left_out", {}).items()]
    symbols = [f"{plain(name)} {count(rows_of)}" for name, rows_of in result.get("symbols", {}).items()]
    found = [
        ("rows", _listed(read)),
        ("set aside", _listed(aside)),
        ("in no part", _listed(left_out)),
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
        line("spread of P(WIN)", "p_std"),
        actions,
    )


def _actions(card: Mapping[str, Any]) -> str:
    actions = card.get("actions") or {}
    return " / ".join(share(actions.get(name)) for name in ("BUY", "HOLD", "SELL")) if actions else NOTHING


def _gate_line(gate: Mapping[str, Any]) -> GateLine:
    checks = checks_of(gate)
    return GateLine(
        name=plain(gate.get("name") or ""),
        tone=_RESULT_TONES.get(str(gate.get("result")), OPEN),
        counts=bool(gate.get("counts", True)),
        measured="; ".join(check.measured for check in checks),
        required="; ".join(check.required for check in checks),
        message=plain(gate.get("message") or ""),
        checks=checks,
    )


def _slot(outcome: Outcome | None, result: Mapping[str, Any]) -> Pairs:
    """Where PATCHTST_MODEL_PATH pointed and points. Without a promotion it was not touched."""
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
    # once it is promoted, the copy in the engine's directory is the one that counts
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
    return _listed([*stages, f"together {duration(sum(seconds.values()))}"]) if stages else ""


def _instant(text: str | None) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC") if text else NOTHING


def _listed(words: Iterable[str]) -> str:
    return " · ".join(words)
