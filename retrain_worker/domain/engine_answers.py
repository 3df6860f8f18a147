"""The engine's own answers: parsed from its trade intents, counted, and compared with those of the model.

The engine writes each trade intent with the answers of its models (`model_breakdown.patchtst`: action, confidence,
shadow) and with the side that it took. A constant answer from a model whose answers vary is a fault of the serving (a
window filled with one row, a file that was never loaded, a fallback), not of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import pstdev
from typing import Any

from retrain_worker.domain import decoding
from retrain_worker.domain.events import STREAM_PREFIX
from retrain_worker.domain.host_names import command
from retrain_worker.domain.labels import Thresholds, action_of
from retrain_worker.domain.trial_evaluation import Answer
from retrain_worker.errors import MalformedError

INTENT_STREAM = f"{STREAM_PREFIX}trade.intent"
MODEL_KEY = "patchtst"
#: the newest answers, kept for the comparison
KEPT = 300
#: fewer answers are not judged
MIN_ANSWERS = 50
#: fewer matched answers do not show which model answers
MIN_MATCHED = 20
#: the engine's answers are constant below this standard deviation; the model's vary above that one
CONSTANT_STD = 1e-3
VARYING_STD = 0.02
#: an answer matches a row of its symbol that was decided within this time
MATCH_MICROSECONDS = 30_000_000
#: the engine rounds its confidences
MATCH_TOLERANCE = 0.02
#: required share of matched answers that are the model's
MIN_SAME = 0.8


@dataclass(frozen=True, kw_only=True)
class EngineAnswer:
    """One answer of PatchTST in the engine."""

    #: microseconds since the epoch, UTC
    at: int
    symbol: str
    #: BUY, SELL or HOLD
    action: str
    confidence: float
    #: the side that the ensemble took
    side: str
    is_shadow: bool
    #: version, file or sha256 of the model, where the engine names it
    names: tuple[str, ...] = ()

    @property
    def is_fallback(self) -> bool:
        """Whether the confidence is the one that an engine without an answer writes."""
        return not (0.0 <= self.confidence <= 1.0) or self.confidence == 0.5


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of the engine's answers since this model was put into its slot."""

    model_path: str = ""
    #: ISO 8601 UTC
    since: str = ""
    entries: int = 0
    malformed: int = 0
    #: entries without an answer of PatchTST
    silent: int = 0
    answers: int = 0
    fallbacks: int = 0
    #: answers whose action is the ensemble's side
    agreed: int = 0
    #: answers that are not marked as shadow
    live: int = 0
    #: the newest answers that are no fallbacks, oldest first
    newest: tuple[EngineAnswer, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def with_entry(self, found: EngineAnswer | None) -> Tally:
        """One more entry; None: it has no answer of PatchTST."""
        if found is None:
            return replace(self, entries=self.entries + 1, silent=self.silent + 1)
        counts = {**self.counts, found.action: self.counts.get(found.action, 0) + 1}
        newest = self.newest if found.is_fallback else (*self.newest, found)[-KEPT:]
        return replace(
            self,
            entries=self.entries + 1,
            answers=self.answers + 1,
            fallbacks=self.fallbacks + found.is_fallback,
            agreed=self.agreed + (found.action == found.side),
            live=self.live + (not found.is_shadow),
            newest=newest,
            counts=counts,
        )

    def with_malformed(self) -> Tally:
        """One more malformed entry."""
        return replace(self, entries=self.entries + 1, malformed=self.malformed + 1)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the tally shows, one message, and whether that is a serving fault."""

    message: str
    is_fault: bool = False
    #: the answers do not depend on the window, so another model would not help
    is_constant: bool = False


@decoding.raises_malformed_only
def answer_in(fields: Mapping[str, Any], *, at: datetime) -> EngineAnswer | None:
    """The answer in one entry (its flat fields and its payload, together); None when it has none of PatchTST.

    Raises MalformedError with the reason when there is one that cannot be read.
    """
    models = _object(fields.get("model_breakdown"), "model_breakdown")
    if models is None or models.get(MODEL_KEY) is None:
        return None
    ours = _object(models[MODEL_KEY], f"model_breakdown.{MODEL_KEY}") or {}
    action, confidence = decoding.line(ours.get("action"), "the action").strip().upper(), ours.get("confidence")
    if action not in ("BUY", "SELL", "HOLD"):
        raise MalformedError(f"the action is {action[:20]!r}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise MalformedError("the confidence is not a number")
    names = (ours.get(name) for name in ("version", "model_version", "model_path", "sha256"))
    return EngineAnswer(
        at=round(at.timestamp() * 1e6),
        symbol=decoding.line(fields.get("symbol"), "the symbol"),
        action=action,
        confidence=float(confidence),
        side=decoding.line(fields.get("side"), "the side").strip().upper(),
        is_shadow=_is_yes(ours.get("shadow")),
        names=tuple(decoding.line(name, "the name of the model", longest=decoding.MAX_PATH) for name in names if name),
    )


def judge(tally: Tally, *, answers: Sequence[Answer], model_std: float | None, thresholds: Thresholds) -> Finding:
    """Whether the answers vary, and are those of the promoted model.

    `answers`: the promoted model's own answers to rows; `model_std`: their standard deviation, where it is known.
    """
    if tally.answers < MIN_ANSWERS:
        return Finding(message=f"{tally.answers} engine answers, {MIN_ANSWERS} required to judge them")
    if 2 * len(tally.newest) < MIN_ANSWERS:
        return Finding(
            is_fault=True,
            is_constant=True,
            message=f"serving fault: {tally.fallbacks} of {tally.answers} engine answers are fallbacks (0.5, or no "
            "probability)",
        )
    newest, last = tally.newest, tally.newest[-1]
    if pstdev(one.confidence for one in newest) < CONSTANT_STD and len({one.action for one in newest}) == 1:
        constant = f"the last {len(newest)} engine answers are all {last.action} {last.confidence:.4f}"
        if model_std is not None and model_std < VARYING_STD:
            return Finding(message=f"{constant}, as the model's are")
        varies = "" if model_std is None else f", but the model's vary (standard deviation {model_std:.3f})"
        return Finding(is_fault=True, is_constant=True, message=f"serving fault: {constant}{varies}")
    same, matched = matches(newest, answers, thresholds)
    if matched >= MIN_MATCHED and same < MIN_SAME * matched:
        return Finding(
            is_fault=True,
            message=f"serving fault: {same} of {matched} matched engine answers are the model's; the engine runs "
            "another model, or prepares its input differently",
        )
    shares = ", ".join(f"{name} {count / tally.answers:.0%}" for name, count in sorted(tally.counts.items()))
    known = f"; {same} of {matched} matched answers are the model's" if matched else ""
    return Finding(
        message=f"{tally.answers} engine answers, {shares}, {tally.agreed / tally.answers:.0%} as the ensemble{known}"
    )


def with_advice(finding: Finding, tally: Tally, *, constant_window: float | None) -> Finding:
    """A finding of constant answers with what helps. `constant_window`: P(WIN) of a window that repeats one row."""
    if not finding.is_constant:
        return finding
    answer, cause = tally.newest[-1].confidence if tally.newest else 0.5, ""
    if constant_window is not None and min(abs(answer - constant_window), abs(1.0 - answer - constant_window)) <= (
        MATCH_TOLERANCE
    ):
        cause = f"; {constant_window:.4f} is the model's P(WIN) of a window that repeats one row"
    return replace(
        finding,
        message=f"{finding.message}{cause}; no promotion helps until the engine's windows vary: compare its answers on "
        f"{INTENT_STREAM} with the constant window in {command()} report",
    )


def matches(engine: Sequence[EngineAnswer], answers: Sequence[Answer], thresholds: Thresholds) -> tuple[int, int]:
    """(engine answers that are the model's, engine answers that match a row to which the model's answer is known)."""
    by_symbol: dict[str, list[Answer]] = {}
    for answer in answers:
        by_symbol.setdefault(answer.symbol, []).append(answer)
    same = matched = 0
    for one in engine:
        near = min(by_symbol.get(one.symbol, ()), key=lambda answer: abs(answer.decided_at - one.at), default=None)
        if near is None or abs(near.decided_at - one.at) > MATCH_MICROSECONDS:
            continue
        matched += 1
        # an engine may write its confidence in the action instead of P(WIN)
        gap = min(abs(one.confidence - near.probability), abs(one.confidence - (1.0 - near.probability)))
        same += gap <= MATCH_TOLERANCE and one.action == action_of(near.probability, thresholds)
    return same, matched


def _object(value: Any, name: str) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        value = decoding.json_value(value, name)
    if value is not None and not isinstance(value, dict):
        raise MalformedError(f"{name} is not an object")
    return value


def _is_yes(value: Any) -> bool:
    return value is True or str(value).strip().lower() in ("true", "1", "yes")
