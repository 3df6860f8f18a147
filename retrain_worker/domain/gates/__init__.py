"""The gates: evidence and policy in, verdict and reasons out. Pure functions; nothing is measured here.

Each gate is declared in a module of its own (gate.py defines what a declaration holds); decision.py lists them.
"""

from retrain_worker.domain.gates.check import Check
from retrain_worker.domain.gates.decision import Decision, Verdict, decide
from retrain_worker.domain.gates.evidence import (
    Agreement,
    Bucket,
    Comparison,
    ContractCheck,
    Evidence,
    Fold,
    PooledEstimate,
    Scorecard,
    Skill,
    Slice,
)
from retrain_worker.domain.gates.gate import Gate, GateOutcome, GateResult, Measured
from retrain_worker.domain.gates.policy import GatePolicy, GateProfile

__all__ = [
    "Agreement",
    "Bucket",
    "Check",
    "Comparison",
    "ContractCheck",
    "Decision",
    "Evidence",
    "Fold",
    "Gate",
    "GateOutcome",
    "GatePolicy",
    "GateProfile",
    "GateResult",
    "Measured",
    "PooledEstimate",
    "Scorecard",
    "Skill",
    "Slice",
    "Verdict",
    "decide",
]
