"""A run whose stored facts lack a key, or hold one that cannot be read, ends in time; no verb fails on it.

Every key of every stored fact, at any depth, is removed, set to null, given a wrong type, and joined by an unknown one,
in a run on trial, in one on probation, and in one in the middle of its promotion.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_worker import cli
from retrain_worker.adapters import stored_json
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.gates import Comparison
from retrain_worker.domain.lifecycle import Outcome, Run, Stage
from retrain_worker.domain.probation import ProbationPolicy
from retrain_worker.domain.shadow_trial import ShadowPolicy
from retrain_worker.domain.trial_evaluation import AnswerDistribution, TrialEvaluation
from retrain_worker.domain.worker_protocol import Done, GateMeasured, TrialEvaluationResult
from retrain_worker.errors import UsageError
from retrain_worker.report.result import RunResult
from retrain_worker.stages import slot_requests
from retrain_worker.stages.advance import advance
from tests.fakes import FakeClock, FakeContext, FakeWorkers, RecordedState, fake_context, opened
from tests.report_pages import page_of
from tests.unit.test_gates import GOOD
from tests.unit.test_stages import FIT, PULLED, a_run, trained_in

LIMIT_HOURS = 48.0
DAYS = 60
#: hours from one evaluation to the next, so that sixty days take few steps
INTERVAL_HOURS = 6.0
LIVELY = AnswerDistribution(n=300, not_finite=0, p_std=0.2, actions={"BUY": 0.5, "SELL": 0.3, "HOLD": 0.2})
#: too few outcomes for a verdict, so that only the time limit ends the trial
FEW = TrialEvaluation(
    num_predictions=300,
    num_early_predictions=250,
    num_outcomes=40,
    evidence=GOOD,
    worse=Comparison(n=40, auc_difference=0.0, log_loss_gain=0.05, log_loss_gain_low=-0.01),
    model=LIVELY,
    reference=LIVELY,
)

#: from the changed fact to the end of the run; a promotion that is judged again may go on trial, then on probation
LONGEST_HOURS = {
    "on trial": LIMIT_HOURS + INTERVAL_HOURS,
    "on probation": LIMIT_HOURS + INTERVAL_HOURS,
    "before the swap": 2 * (LIMIT_HOURS + INTERVAL_HOURS),
    "in the middle of the swap": LIMIT_HOURS + INTERVAL_HOURS,
}

Place = tuple[str | int, ...]
Change = Callable[[Any, str | int], None]


def without(holder: Any, key: str | int) -> None:
    del holder[key]


def null(holder: Any, key: str | int) -> None:
    holder[key] = None


def of_wrong_type(holder: Any, key: str | int) -> None:
    holder[key] = {"unexpected": True} if not isinstance(holder[key], dict) else "unexpected"


def beside_an_unknown_one(holder: Any, key: str | int) -> None:
    if isinstance(holder[key], dict):
        holder[key]["added_by_a_newer_version"] = [1]


CHANGES = (without, null, of_wrong_type, beside_an_unknown_one)


def paths_in(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every key at any depth; of a list, only what its first element holds."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*at, key)
            yield from paths_in(each, (*at, key))
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        yield from paths_in(value[0], (*at, 0))


def context_at(folder: Path) -> FakeContext:
    answers: dict[str, Any] = {
        Stage.PULL: Done(result=PULLED),
        Stage.AUDIT: Done(result=FIT),
        Stage.TRAIN: Done(result=trained_in(folder)),
        Stage.GATE: Done(result=GateMeasured(evidence=GOOD)),
        Stage.SHADOW: Done(result=TrialEvaluationResult(evaluation=FEW)),
        Stage.PROBATION: Done(result=TrialEvaluationResult(evaluation=FEW)),
    }
    context = fake_context(folder, workers=FakeWorkers(answers=answers), clock=FakeClock())
    return replace(
        context,
        policies=replace(
            context.policies,
            shadow=ShadowPolicy(min_outcomes=200, max_hours=LIMIT_HOURS),
            probation=ProbationPolicy(hours=LIMIT_HOURS, max_hours=LIMIT_HOURS),
            trial_interval_minutes=60.0 * INTERVAL_HOURS,
        ),
    )


def step(run: Run, context: FakeContext) -> Run:
    """One step, once its time has come. An exception that nothing expects fails the test."""
    while (request := context.store.waiting_slot_request()) is not None:
        slot_requests.carry_out(request, context)
    if run.not_before is not None:
        context.now.now = max(context.now(), run.not_before)
    return advance(run, context).run


def at_shadow(context: FakeContext) -> Run:
    run = a_run()
    while run.facts.shadow is None or run.facts.shadow.verdict is None:
        run = step(run, context)
    return run


def at_probation(context: FakeContext) -> Run:
    run = without_trial(a_run(), context, until=lambda run: run.stage is Stage.PROBATION)
    while run.facts.probation is None or not run.facts.probation.num_predictions:
        run = step(run, context)
    return run


def at_promote(context: FakeContext) -> Run:
    """The env line names the candidate, and nobody has confirmed it yet."""
    return without_trial(a_run(), context, until=lambda run: run.facts.promote is not None)


def before_promote(context: FakeContext) -> Run:
    return without_trial(a_run(), context, until=lambda run: run.stage is Stage.PROMOTE)


def without_trial(run: Run, context: FakeContext, *, until: Callable[[Run], bool]) -> Run:
    policies = replace(context.policies, shadow=ShadowPolicy())
    while not until(run):
        run = step(run, replace(context, policies=policies))
    return run


STATES = {
    "on trial": at_shadow,
    "on probation": at_probation,
    "before the swap": before_promote,
    "in the middle of the swap": at_promote,
}


class Verbs:
    """The command line on one home; its arguments are parsed once."""

    def __init__(self, home: Path, run_id: str, *, as_json: bool) -> None:
        form = " --json" if as_json else ""
        texts = [
            f"status{form}",
            f"history{form}",
            f"report {run_id}{form}",
            f"gates {run_id}{form}",
        ]
        self._parsed = [cli.parse([*text.split(), "--home", str(home)]) for text in texts]

    def check(self) -> None:
        """None of them ends in a traceback."""
        for arguments in self._parsed:
            try:
                assert arguments.execute(arguments) in (ExitCode.DONE, ExitCode.NOT_RUNNING)
            except UsageError as error:
                assert arguments.verb == "gates", error  # one sentence: there is no verdict that can be read


@pytest.fixture(scope="module", params=STATES)
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, str, dict[str, Any]]:
    """A run in this state: its name, its database, its id, its facts."""
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    context = context_at(folder)
    run = STATES[request.param](context)
    context.store.close()
    with closing(sqlite3.connect(folder / "state.db")) as connection:
        (facts,) = connection.execute("SELECT facts FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
    return request.param, folder, run.run_id, json.loads(facts)


def changed_facts(facts: dict[str, Any], change: Change, *, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The facts with one key changed, and which: each key up to this depth, or, from 3 on, each deeper one."""
    for path in paths_in(facts):
        if (len(path) > 2) != (depth > 2):
            continue
        changed = json.loads(json.dumps(facts))
        holder: Any = changed
        for key in path[:-1]:
            holder = holder[key]
        change(holder, path[-1])
        if changed != facts:
            yield ".".join(map(str, path)), changed


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_a_key_of_a_fact_has_become_the_run_ends_in_time_and_every_verb_works(
    recorded: tuple[str, Path, str, dict[str, Any]],
    change: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, folder, run_id, facts = recorded
    home = tmp_path / "home"
    (home / "state").mkdir(parents=True)
    verbs = Verbs(home, run_id, as_json=change is not without)
    for key, changed in changed_facts(facts, change, depth=2):
        shutil.copyfile(folder / "state.db", home / "state/state.db")
        with closing(sqlite3.connect(home / "state/state.db")) as connection, connection:
            connection.execute("UPDATE runs SET facts = ? WHERE run_id = ?", (json.dumps(changed), run_id))
        verbs.check()
        context = replace(context_at(tmp_path), store=opened(RecordedState(home / "state/state.db")))
        context.store._connection.execute("PRAGMA synchronous = OFF")
        run = context.store.known_run(run_id)
        if name == "in the middle of the swap":
            context.slot.named = Path(context.store.known_deployment(run_id).model_path)
        context.now.now = begun = max(run.updated_at, run.not_before or run.updated_at)
        while not run.is_finished and context.now() - begun < timedelta(days=DAYS):
            run = step(context.store.known_run(run_id), context)
        assert run.is_finished, f"{key}: still at {run.stage} after {DAYS} days"
        assert context.now() - begun <= timedelta(hours=LONGEST_HOURS[name]), key
        assert run.reasons, key
        if name in ("on probation", "in the middle of the swap"):
            assert run.outcome is Outcome.PROMOTED, key
        assert page_of(RunResult(run=run), with_charts=False), key
        context.store.close()
        capsys.readouterr()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_a_deeper_key_has_become_only_its_own_stage_is_affected(
    recorded: tuple[str, Path, str, dict[str, Any]],
    change: Any,
) -> None:
    _, _, _, facts = recorded
    sound = stored_json.decode("facts", json.dumps(facts))
    for key, changed in changed_facts(facts, change, depth=3):
        found, stage = stored_json.decode("facts", json.dumps(changed)), key.partition(".")[0]
        assert set(found.unreadable) <= {stage}, key
        assert (getattr(found, stage) is None) == (stage in found.unreadable), key
        assert replace(found, unreadable={}, **{stage: None}) == replace(sound, **{stage: None}), key
        assert page_of(RunResult(run=replace(a_run(), facts=found)), with_charts=False), key
