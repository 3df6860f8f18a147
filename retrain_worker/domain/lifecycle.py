"""A run: its stage, its outcome, and the table of allowed moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from retrain_worker.domain.facts import Fact, RunFacts


class Stage(StrEnum):
    """The next step. The stored stage is always the one that is due, so recovery is executing it."""

    #: freeze the rows of the training window into a snapshot
    PULL = "PULL"
    #: decide whether the snapshot is fit to train on
    AUDIT = "AUDIT"
    #: fit a candidate, calibrate it, write and verify its file
    TRAIN = "TRAIN"
    #: measure candidate and incumbent on the holdout, decide
    GATE = "GATE"
    #: evaluate the candidate beside the incumbent on rows that arrive after its training; its answers are not used
    SHADOW = "SHADOW"
    #: put the candidate into the engine's slot and wait for the confirmation
    PROMOTE = "PROMOTE"
    #: evaluate the promoted model on new outcomes beside the model that it replaced
    PROBATION = "PROBATION"


#: stages in which a run waits for new rows; another run may work meanwhile
WAITING = frozenset({Stage.SHADOW, Stage.PROBATION})


class Outcome(StrEnum):
    """How a run ended."""

    #: the candidate is in the engine's slot
    PROMOTED = "PROMOTED"
    #: the data or the candidate is not acceptable; the incumbent stays
    REFUSED = "REFUSED"
    #: too few newly labelled rows, or promotions are paused
    SKIPPED = "SKIPPED"
    #: an error; nothing was changed
    FAILED = "FAILED"
    #: stopped by an operator or a restart; the next start resumes the same stage
    INTERRUPTED = "INTERRUPTED"
    #: interrupted too often at the same stage
    ABANDONED = "ABANDONED"
    #: promoted, then rolled back
    ROLLED_BACK = "ROLLED_BACK"


#: stage -> what may follow it. INTERRUPTED keeps its stage, so a resumed run continues where it stopped.
MOVES: Mapping[Stage, frozenset[Stage | Outcome]] = {
    Stage.PULL: frozenset({Stage.AUDIT, Outcome.SKIPPED, Outcome.REFUSED}),
    Stage.AUDIT: frozenset({Stage.TRAIN, Outcome.REFUSED}),
    Stage.TRAIN: frozenset({Stage.GATE, Outcome.REFUSED}),
    # back to TRAIN when training settings have changed: the holdout must not contain training rows
    Stage.GATE: frozenset({Stage.TRAIN, Stage.SHADOW, Stage.PROMOTE, Outcome.REFUSED}),
    Stage.SHADOW: frozenset({Stage.PROMOTE, Outcome.REFUSED}),
    # back to GATE when the incumbent has changed: the comparison was with another model
    # SKIPPED during a pause
    Stage.PROMOTE: frozenset(
        {Stage.GATE, Stage.PROBATION, Outcome.PROMOTED, Outcome.REFUSED, Outcome.ROLLED_BACK, Outcome.SKIPPED}
    ),
    Stage.PROBATION: frozenset({Outcome.PROMOTED, Outcome.ROLLED_BACK}),
}

#: what may happen at any stage
ALWAYS_ALLOWED: frozenset[Outcome] = frozenset({Outcome.FAILED, Outcome.INTERRUPTED, Outcome.ABANDONED})

#: outcomes that end a run for good
FINAL: frozenset[Outcome] = frozenset(Outcome) - {Outcome.INTERRUPTED}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt to replace the incumbent. Immutable: every move creates a new value."""

    #: `YYYYmmdd_HHMMSS` of its creation in UTC; the model version is `patchtst_v<run_id>`
    run_id: str
    #: a Requester, or the user who forced the promotion
    requested_by: str
    #: why it was started, one line
    request_reason: str
    created_at: datetime
    #: time of the last move or resumption, when the current stage began
    updated_at: datetime
    stage: Stage = Stage.PULL
    outcome: Outcome | None = None
    #: reasons of the outcome, most important first
    reasons: tuple[str, ...] = ()
    finished_at: datetime | None = None
    #: crashes and unexpected errors in this stage; too many end the run as ABANDONED
    num_deaths: int = 0
    #: retries of this stage after a RetryLaterError
    num_retries: int = 0
    #: earliest time of the next attempt (back-off after a RetryLaterError)
    not_before: datetime | None = None
    #: the findings of each stage
    facts: RunFacts = field(default_factory=RunFacts)
    #: stage value in lower case -> wall seconds spent
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen to this run."""
        return self.finished_at is not None

    @property
    def is_concluded(self) -> bool:
        """Whether its outcome is known: it is finished, or on probation, which may still roll it back."""
        return self.outcome is not None and self.outcome in FINAL

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for new rows, so that another run may work."""
        return self.stage in WAITING and not self.is_finished

    @property
    def is_data_refused(self) -> bool:
        """Whether it was refused because of its rows, before any training."""
        return self.outcome is Outcome.REFUSED and self.stage in (Stage.PULL, Stage.AUDIT)

    @property
    def needs_attention(self) -> bool:
        """Whether an operator has to act on the outcome: a refusal by a gate, and too few new rows, need nothing."""
        return self.outcome in (Outcome.FAILED, Outcome.ABANDONED, Outcome.ROLLED_BACK) or self.is_data_refused

    def with_fact(self, fact: Fact) -> Run:
        """The same run with the findings of one stage."""
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
        """The run promoted, with the probation due: its outcome is PROMOTED unless it is rolled back."""
        return replace(self.moved_to(Stage.PROBATION, at=at), outcome=Outcome.PROMOTED, reasons=reasons)

    def resumed(self, *, at: datetime) -> Run:
        """An interrupted run, due at its stage."""
        assert self.outcome in (None, Outcome.INTERRUPTED), f"a run that ended as {self.outcome} cannot be resumed"
        return replace(self, outcome=None, reasons=(), not_before=None, updated_at=at)


class Requester(StrEnum):
    """Who requests a run, or a change of the slot, where it is not a user by name."""

    #: RETRAIN_INTERVAL_H
    SCHEDULE = "schedule"
    #: an entry of quantum:stream:model.retrain
    TRIGGER = "trigger"
    #: the command `once`
    ONCE = "once"
    #: a probation that found its model worse, or degenerate
    PROBATION = "probation"
    #: a promotion that was not confirmed
    UNCONFIRMED = "UNCONFIRMED=rollback"
    #: the author of an external change
    UNKNOWN = "unknown"


class DeploymentKind(StrEnum):
    """Who changed the slot."""

    #: a run promoted its candidate
    PROMOTE = "promote"
    #: an earlier model returned, or the slot was emptied
    ROLLBACK = "rollback"
    #: an external change, or the model before the first run
    EXTERNAL = "external"


class DeploymentState(StrEnum):
    """Progress of a swap."""

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
    #: no confirmation is expected: ENGINE_CONFIRM=none, an emptied slot, or an external change
    NOT_ASKED = "NOT_ASKED"
    #: cancelled before the env line changed
    UNDONE = "UNDONE"

    @property
    def words(self) -> str:
        """For a person."""
        return "confirmation not required" if self is DeploymentState.NOT_ASKED else self.lower().replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One change of the engine's slot: who, when, why, from what to what."""

    #: the run's id for a promotion, `rollback_<YYYYmmdd_HHMMSS>` for a rollback
    deployment_id: str
    #: the run that promotes it; of a rollback or an external change, the run whose model leaves the slot
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
    #: the evidence of the confirmation, or why there is none
    confirmation: str = ""
    #: hash of the previous model at the intent; None when it could not be read
    previous_sha256: str | None = None
