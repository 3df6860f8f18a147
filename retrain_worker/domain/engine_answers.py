"""What the engine itself says of each decision: read from its own entries, counted, and compared with the model.

The engine writes each trade intent with what its models said (`model_breakdown.patchtst`: action, confidence, shadow)
and with the side it took. A constant answer under a model that varies is a fault of the serving (a window filled with
one row, a file that was never loaded, a fallback), not of the model, and is named so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import pstdev
from typing import Any

from retrain_worker.domain.events import STREAM_PREFIX
from retrain_worker.domain.labels import Thresholds, action_of
from retrain_worker.domain.trial_evaluation import Answer

INTENT_STREAM = f"{STREAM_PREFIX}trade.intent"
MODEL_KEY = "patchtst"
#: answers kept for the comparison, the newest
KEPT = 300
#: answers under which nothing is said about the engine
MIN_ANSWERS = 50
#: matched answers under which nothing is said about which model answers
MIN_MATCHED = 20
#: std of the confidences under which the engine's output is constant, and of the model over which the model is not
CONSTANT_STD = 1e-3
VARYING_STD = 0.02
#: an answer belongs to a row of its symbol that was decided within so many microseconds
MATCH_MICROSECONDS = 30_000_000
#: the engine rounds its confidences
MATCH_TOLERANCE = 0.02
#: share of the matched answers that must be the model's
MIN_SAME = 0.8


@dataclass(frozen=True, kw_only=True)
class EngineAnswer:
    """One answer of the engine's PatchTST."""

    #: microseconds since the epoch, UTC
    at: int
    symbol: str
    #: BUY, SELL or HOLD
    action: str
    confidence: float
    #: what the ensemble did
    side: str
    is_shadow: bool
    #: version, file or sha256 of the model, where the engine names it
    names: tuple[str, ...] = ()

    @property
    def is_fallback(self) -> bool:
        """Whether the confidence is what an engine without an answer writes."""
        return not (0.0 <= self.confidence <= 1.0) or self.confidence == 0.5


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What the engine has said since this model came into its slot."""

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
    #: answers that do not say that they are in shadow
    live: int = 0
    #: the newest sound answers, oldest first
    newest: tuple[EngineAnswer, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def with_entry(self, found: EngineAnswer | None) -> Tally:
        """One more entry; None: it holds no answer of PatchTST."""
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
        """One more entry that means nothing."""
        return replace(self, entries=self.entries + 1, malformed=self.malformed + 1)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the tally says, one sentence, and whether the serving is at fault."""

    message: str
    is_fault: bool = False


def answer_in(fields: Mapping[str, Any], *, at: datetime) -> EngineAnswer | None:
    """The answer in one entry (its flat fields and its payload, together); None when it has none of PatchTST.

    Raises ValueError with the reason when there is one that cannot be read.
    """
    models = _object(fields.get("model_breakdown"), "model_breakdown")
    if models is None or models.get(MODEL_KEY) is None:
        return None
    ours = _object(models[MODEL_KEY], f"model_breakdown.{MODEL_KEY}") or {}
    action, confidence = str(ours.get("action", "")).strip().upper(), ours.get("confidence")
    if action not in ("BUY", "SELL", "HOLD"):
        raise ValueError(f"its action is {action[:20]!r}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise ValueError("its confidence is not a number")  # noqa: TRY004 - one kind of answer for all that is wrong
    names = (ours.get(name) for name in ("version", "model_version", "model_path", "sha256"))
    return EngineAnswer(
        at=round(at.timestamp() * 1e6),
        symbol=str(fields.get("symbol", "")),
        action=action,
        confidence=float(confidence),
        side=str(fields.get("side", "")).strip().upper(),
        is_shadow=_is_yes(ours.get("shadow")),
        names=tuple(str(name) for name in names if name),
    )


def judge(tally: Tally, *, answers: Sequence[Answer], model_std: float | None, thresholds: Thresholds) -> Finding:
    """Whether it varies, is the model that was promoted, and agrees with the ensemble.

    `answers`: what our own model says of rows; `model_std`: how much its answers vary, where that is known.
    """
    if tally.answers < MIN_ANSWERS:
        return Finding(message=f"the engine has given {tally.answers} answers, {MIN_ANSWERS} are needed to judge it")
    if len(tally.newest) < MIN_ANSWERS // 2:
        return Finding(
            is_fault=True,
            message=f"serving fault: {tally.fallbacks} of the engine's {tally.answers} "
            "answers are fallbacks (0.5, or no probability)",
        )
    said = tally.newest
    if pstdev(one.confidence for one in said) < CONSTANT_STD and len({one.action for one in said}) == 1:
        told = f"the engine said {said[-1].action} {said[-1].confidence:.4f} in all of its last {len(said)} answers"
        if model_std is not None and model_std < VARYING_STD:
            return Finding(message=f"{told}, as the model does")
        varies = "" if model_std is None else f", while the model's own answers vary (std {model_std:.3f})"
        return Finding(is_fault=True, message=f"serving fault: {told}{varies}")
    same, matched = matches(said, answers, thresholds)
    if matched >= MIN_MATCHED and same < MIN_SAME * matched:
        return Finding(
            is_fault=True,
            message=f"serving fault: {same} of {matched} answers of the engine are those of "
            "the model in the slot: it runs another model, or feeds it otherwise",
        )
    shares = ", ".join(f"{name} {count / tally.answers:.0%}" for name, count in sorted(tally.counts.items()))
    known = f"; {same} of {matched} are the model's own" if matched else ""
    return Finding(
        message=f"{tally.answers} answers, {shares}, as the ensemble in {tally.agreed / tally.answers:.0%}{known}"
    )


def matches(said: Sequence[EngineAnswer], answers: Sequence[Answer], thresholds: Thresholds) -> tuple[int, int]:
    """(answers that are the model's own, answers that belong to a row of which we know what the model says)."""
    by_symbol: dict[str, list[Answer]] = {}
    for answer in answers:
        by_symbol.setdefault(answer.symbol, []).append(answer)
    same = matched = 0
    for one in said:
        near = min(by_symbol.get(one.symbol, ()), key=lambda answer: abs(answer.decided_at - one.at), default=None)
        if near is None or abs(near.decided_at - one.at) > MATCH_MICROSECONDS:
            continue
        matched += 1
        # an engine may say how sure it is of its action instead of P
        gap = min(abs(one.confidence - near.probability), abs(one.confidence - (1.0 - near.probability)))
        same += gap <= MATCH_TOLERANCE and one.action == action_of(near.probability, thresholds)
    return same, matched


def _object(value: Any, name: str) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"its {name} is not JSON") from None
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"its {name} is not an object")
    return value


def _is_yes(value: Any) -> bool:
    return value is True or str(value).strip().lower() in ("true", "1", "yes")
