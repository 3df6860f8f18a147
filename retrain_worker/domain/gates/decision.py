"""The verdict on a candidate: all gates are evaluated, and those that count must pass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from retrain_worker.domain.gates.action_diversity import ACTION_DIVERSITY
from retrain_worker.domain.gates.agreement import AGREEMENT
from retrain_worker.domain.gates.calibration import CALIBRATION
from retrain_worker.domain.gates.confidence_spread import CONFIDENCE_SPREAD
from retrain_worker.domain.gates.contract import CONTRACT
from retrain_worker.domain.gates.evidence import Evidence
from retrain_worker.domain.gates.gate import Gate, GateOutcome, GateResult
from retrain_worker.domain.gates.incumbent import INCUMBENT
from retrain_worker.domain.gates.policy import GatePolicy
from retrain_worker.domain.gates.skill import SKILL
from retrain_worker.domain.gates.stability import STABILITY
from retrain_worker.domain.problem import Problem, ProblemKind

#: a new gate is a module that declares it, an entry here, and a test
GATES: tuple[Gate, ...] = (
    CONTRACT,
    ACTION_DIVERSITY,
    CONFIDENCE_SPREAD,
    AGREEMENT,
    CALIBRATION,
    SKILL,
    INCUMBENT,
    STABILITY,
)


class Decision(StrEnum):
    """What the verdict is."""

    #: every gate that counts passed
    PASS = "PASS"  # noqa: S105 - not a password
    #: one failed
    REFUSE = "REFUSE"
    #: none failed, one is undecided: not a pass
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The decision, the results it follows from, and the policy that was applied."""

    decision: Decision
    gates: tuple[GateResult, ...]
    policy: GatePolicy

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of the gates that count and did not pass: failures first, then the undecided."""
        found = [gate.problem for gate in self.gates if gate.counts and gate.problem is not None]
        return tuple(sorted(found, key=lambda problem: problem.kind is ProblemKind.GATE_UNDECIDED))

    @property
    def reasons(self) -> tuple[str, ...]:
        """The problems as text."""
        return tuple(problem.message for problem in self.problems)


def decide(evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The verdict on a candidate."""
    gates = tuple(gate.judge(evidence, policy) for gate in GATES)
    results = {gate.result for gate in gates if gate.counts}
    if results == {GateOutcome.PASS}:
        decision = Decision.PASS
    elif GateOutcome.FAIL in results:
        decision = Decision.REFUSE
    else:
        decision = Decision.UNDECIDED
    return Verdict(decision=decision, gates=gates, policy=policy)
