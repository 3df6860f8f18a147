"""A run: where it is, how it ended, and the one table of allowed moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from retrain_worker.domain.facts import Fact, RunFacts


class Stage(StrEnum):
    """The next thing to do. What is stored is always the stage that is due, so recovery is: run the stage."""

    #: freeze the rows of the training window into a snapshot
    PULL = "PULL"
    #: decide whether the snapshot is fit to train on
    AUDIT = "AUDIT"
    #: fit a candidate, calibrate it, write and verify its file
    TRAIN = "TRAIN"
    #: measure candidate and incumbent on the holdout, decide
    GATE = "GATE"
    #: the candidate scores rows that arrive after its training, beside the incumbent; its answers are used by no one
    SHADOW = "SHADOW"
    #: put the candidate into the engine's slot and see it served
    PROMOTE = "PROMOTE"
    #: it serves, and is scored on new outcomes beside the model that it replaced
    PROBATION = "PROBATION"


#: stages in which a run waits for rows that have not happened yet: another run may work meanwhile
WAITING = frozenset({Stage.SHADOW, Stage.PROBATION})


class Outcome(StrEnum):
    """How a run ended."""

    #: the candidate is in the engine's slot
    PROMOTED = "PROMOTED"
    #: data or candidate was not good enough; the incumbent stays
    REFUSED = "REFUSED"
    #: too few newly labelled rows to be worth a run
    SKIPPED = "SKIPPED"
    #: something broke; nothing was changed
    FAILED = "FAILED"
    #: stopped by a person or a restart; the next start goes on with the same stage
    INTERRUPTED = "INTERRUPTED"
    #: interrupted too often at the same stage; given up
    ABANDONED = "ABANDONED"
    #: promoted, then taken back
    ROLLED_BACK = "ROLLED_BACK"


#: stage -> what may follow it. INTERRUPTED keeps its stage, so a resumed run re-enters where it stopped.
MOVES: Mapping[Stage, frozenset[Stage | Outcome]] = {
    Stage.PULL: frozenset({Stage.AUDIT, Outcome.SKIPPED, Outcome.REFUSED}),
    Stage.AUDIT: frozenset({Stage.TRAIN, Outcome.REFUSED}),
    Stage.TRAIN: frozenset({Stage.GATE, Outcome.REFUSED}),
    # back to TRAIN when the settings changed since: the holdout must be rows that the candidate has never seen
    Stage.GATE: frozenset({Stage.TRAIN, Stage.SHADOW, Stage.PROMOTE, Outcome.REFUSED}),
    Stage.SHADOW: frozenset({Stage.PROMOTE, Outcome.REFUSED}),
    # back to GATE when a person pointed the engine elsewhere meanwhile: the comparison was with another incumbent
    Stage.PROMOTE: frozenset({Stage.GATE, Stage.PROBATION, Outcome.PROMOTED, Outcome.REFUSED, Outcome.ROLLED_BACK}),
    Stage.PROBATION: frozenset({Outcome.PROMOTED, Outcome.ROLLED_BACK}),
}

#: what may happen at any stage
ALWAYS_ALLOWED: frozenset[Outcome] = frozenset({Outcome.FAILED, Outcome.INTERRUPTED, Outcome.ABANDONED})

#: outcomes that end a run for good
FINAL: frozenset[Outcome] = frozenset(Outcome) - {Outcome.INTERRUPTED}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt to replace the incumbent. Immutable: every move makes a new value."""

    #: `YYYYmmdd_HHMMSS` of its creation in UTC; the model version is `patchtst_v<run_id>`
    run_id: str
    #: schedule | trigger | once
    requested_by: str
    #: why it was started, one line
    request_reason: str
    created_at: datetime
    #: the last move or resumption: when the stage that is due began
    updated_at: datetime
    stage: Stage = Stage.PULL
    outcome: Outcome | None = None
    #: why it ended as it did, weightiest first
    reasons: tuple[str, ...] = ()
    finished_at: datetime | None = None
    #: how often a process died, or an unforeseen error came up, in this stage; a run with too many is given up
    num_deaths: int = 0
    #: how often this stage was tried again after a RetryLaterError
    num_retries: int = 0
    #: not before this instant (back-off after a RetryLaterError)
    not_before: datetime | None = None
    #: what each stage has found
    facts: RunFacts = field(default_factory=RunFacts)
    #: stage value in lower case -> wall seconds spent
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to this run."""
        return self.finished_at is not None

    @property
    def is_concluded(self) -> bool:
        """Whether its outcome is known: it is finished, or serves on probation, which may still take it back."""
        return self.outcome is not None and self.outcome in FINAL

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for rows that have not happened yet, and lets another run work meanwhile."""
        return self.stage in WAITING and not self.is_finished

    def with_fact(self, fact: Fact) -> Run:
        """The same run with what one of its stages has found."""
        return replace(self, facts=self.facts.with_fact(fact))

    def moved_to(self, stage: Stage, *, at: datetime) -> Run:
        """The run with `stage` due next. Raises AssertionError on a move that MOVES does not allow."""
        assert stage in MOVES[self.stage], f"{self.stage} may not be followed by {stage}"
        return replace(self, stage=stage, outcome=None, num_deaths=0, num_retries=0, not_before=None, updated_at=at)

    def ended(self, outcome: Outcome, *reasons: str, at: datetime) -> Run:
        """The run with an outcome. Raises AssertionError on an outcome that is not allowed here."""
        allowed = MOVES[self.stage] | ALWAYS_ALLOWED
        assert outcome in allowed, f"a run at {self.stage} may not end as {outcome}"
        return replace(
            self,
            outcome=outcome,
            reasons=reasons,
            updated_at=at,
            not_before=None,
            finished_at=at if outcome in FINAL else None,
        )

    def on_probation(self, *reasons: str, at: datetime) -> Run:
        """The run promoted, with the probation due: its outcome is PROMOTED, unless it is taken back."""
        return replace(self.moved_to(Stage.PROBATION, at=at), outcome=Outcome.PROMOTED, reasons=reasons)

    def resumed(self, *, at: datetime) -> Run:
        """An interrupted run, due at the stage where it stopped."""
        assert self.outcome in (None, Outcome.INTERRUPTED), f"a run that ended as {self.outcome} cannot go on"
        return replace(self, outcome=None, reasons=(), not_before=None, updated_at=at)


class DeploymentKind(StrEnum):
    """Who changed the slot."""

    #: a run put its candidate there
    PROMOTE = "promote"
    #: an earlier model returned, or the slot was emptied
    ROLLBACK = "rollback"
    #: somebody else edited the env line, or it was there before the first run
    EXTERNAL = "external"


class DeploymentState(StrEnum):
    """How far a swap has come."""

    #: files are in the engine's directory and verified; the env line may or may not name them yet
    INTENDED = "INTENDED"
    #: the env line names the model; the event is in the outbox
    SWAPPED = "SWAPPED"
    #: the trigger file was written; waiting to see the engine serve it
    ANNOUNCED = "ANNOUNCED"
    #: the engine was seen serving it
    CONFIRMED = "CONFIRMED"
    #: the engine was not seen serving it within the time allowed
    NOT_CONFIRMED = "NOT_CONFIRMED"
    #: no confirmation is expected: ENGINE_CONFIRM=none, an emptied slot, or a change by somebody else
    NOT_ASKED = "NOT_ASKED"
    #: given up before the env line changed
    UNDONE = "UNDONE"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One change of the engine's slot: who, when, why, from what to what."""

    #: the run's id for a promotion, `rollback_<YYYYmmdd_HHMMSS>` for a roll-back
    deployment_id: str
    run_id: str | None
    kind: DeploymentKind
    version: str
    model_path: str
    sha256: str
    size_bytes: int
    previous_version: str | None
    previous_model_path: str | None
    state: DeploymentState
    created_at: datetime
    updated_at: datetime
    requested_by: str
    reason: str
    #: who confirmed it and how, or why nobody did
    confirmation: str = ""
    #: what stood in the slot before, hashed when this deployment was intended; None when it could not be read
    previous_sha256: str | None = None
