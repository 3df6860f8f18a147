"""The declaration of a gate, from which verdict, report, command line, events and docs/reference/gates.md derive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.evidence import Evidence
from retrain_worker.domain.gates.policy import GatePolicy
from retrain_worker.domain.problem import Problem, ProblemKind
from retrain_worker.errors import message_of


class GateOutcome(StrEnum):
    """How one gate ended."""

    PASS = "PASS"  # noqa: S105 - not a password
    FAIL = "FAIL"
    #: not measured, or on too few rows: not a pass
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a gate finds in the evidence. It passes when every check is met."""

    checks: tuple[Check, ...] = ()
    #: rows that the checks are based on; None: the gate needs no rows
    num_rows: int | None = None
    #: what the checks do not show: which symbol, which folds
    detail: str = ""
    #: why the gate cannot be decided; empty = it can
    undecided: str = ""
    #: why the gate passes without a check; empty = the checks decide
    exemption: str = ""
    #: what else was measured: name -> value, ready for JSON
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The result of one gate as it is stored, published and shown."""

    name: str
    result: GateOutcome
    #: False: advisory
    counts: bool
    #: why it ended so
    message: str = ""
    #: what a failure of this gate means
    failure: str = ""
    checks: tuple[Check, ...] = ()
    measurements: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    @property
    def detail(self) -> str:
        """The message without what the checks state."""
        stated = {
            text for check in self.checks for text in (check.measured, f"{check.measured}, required {check.required}")
        }
        return "; ".join(part for part in self.message.split("; ") if part not in stated)

    @property
    def problem(self) -> Problem | None:
        """What keeps the candidate from passing; None when this gate does not."""
        if self.result is GateOutcome.PASS:
            return None
        if self.result is GateOutcome.UNDECIDED:
            return Problem(kind=ProblemKind.GATE_UNDECIDED, subject=self.name, cause=self.message)
        cause = message_of(self.message, subject=self.failure)
        return Problem(kind=ProblemKind.GATE_FAILED, subject=self.name, cause=cause)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate. A module of this package declares it; `decision.GATES` lists it."""

    name: str
    #: when it passes; `{field}` is replaced by a threshold
    requirement: str
    #: what a failure means
    failure: str
    #: the fields of GatePolicy that it applies
    thresholds: tuple[str, ...]
    measure: Callable[[Evidence, GatePolicy], Measured]
    #: False: advisory
    counts: Callable[[GatePolicy], bool] = lambda _policy: True

    def judge(self, evidence: Evidence, policy: GatePolicy) -> GateResult:
        """The result on `evidence`. Undecided comes before failed: a gate that lacks a number does not judge."""
        found = self.measure(evidence, policy)
        result, message = _result(found, policy)
        return GateResult(
            name=self.name,
            result=result,
            counts=self.counts(policy),
            message=message,
            failure=self.failure,
            checks=found.checks,
            measurements={
                **({} if found.num_rows is None else {"n": found.num_rows}),
                **{check.name: check.value for check in found.checks},
                **found.others,
            },
            thresholds={name: getattr(policy, name) for name in self.thresholds},
        )


def _result(found: Measured, policy: GatePolicy) -> tuple[GateOutcome, str]:
    if found.exemption:
        return GateOutcome.PASS, found.exemption
    if found.num_rows is not None and found.num_rows < policy.min_rows:
        message = f"{found.num_rows} rows could be measured, {policy.min_rows} are required"
        return GateOutcome.UNDECIDED, "; ".join([message, *filter(None, [found.detail])])
    missing = [check.label for check in found.checks if check.value is None]
    if found.undecided or missing:
        return GateOutcome.UNDECIDED, found.undecided or (
            f"not measured: {'; '.join(missing)} ({found.num_rows} rows: too few of them or of one class, "
            "or a probability that is not a number)"
        )
    unmet = [f"{check.measured}, required {check.required}" for check in found.checks if not check.is_met]
    shown = unmet or [check.measured for check in found.checks]
    return GateOutcome.FAIL if unmet else GateOutcome.PASS, "; ".join([*shown, *filter(None, [found.detail])])
