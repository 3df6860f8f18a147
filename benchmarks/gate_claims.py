"""Each error probability that the gates claim, beside the one measured when luck persists for hours to days.

    python benchmarks/gate_claims.py                          every table, 2,000 worlds a cell
    python benchmarks/gate_claims.py --worlds 200 --only skill

One process, nothing is trained; results are printed as they are found. Measurements, gates, alpha spending and the rule
of probation are the program's; GATE_ settings in the environment replace their defaults. persistent_luck.py says what a
world is.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from operator import attrgetter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import numpy as np
from gate_markets import FITS, POLICY
from persistent_luck import FOLDS, HOLDOUT, HOUR, START, Floats, Kind, World, true_probabilities
from scipy import optimize, special, stats

from retrain_worker.domain.alpha_spending import spend
from retrain_worker.domain.gates import Decision, Evidence, GatePolicy, decide
from retrain_worker.domain.gates.skill import SKILL
from retrain_worker.domain.probation import ProbationPolicy, alpha_of, is_settled, outcomes_for
from retrain_worker.settings import load
from retrain_worker.worker import pooled_skill, scoring, statistics
from retrain_worker.worker.pooled_skill import Answered

#: so that the pool with all folds is tested at POLICY.skill_alpha
ONE_POOL = replace(POLICY, skill_alpha=2 * POLICY.skill_alpha)
CALIBRATED = load({"GATE_PROFILE": "calibrated"}).gate
MIN_GAIN = POLICY.min_gain
HOURS = (0.0, 2.0, 6.0, 24.0, 48.0, 96.0)
#: correlation of the signal with the outcome -> AUC
EDGES = {0.55: 0.111, 0.58: 0.177, 0.6: 0.221, 0.62: 0.265, 0.65: 0.33, 0.7: 0.437, 0.8: 0.642}
#: rows of a table, of which 15 % are the holdout, for the power
TABLES = (6_000, 20_000, 40_000)
SILENT, FAINT, LEARNED = (attrgetter(name) for name in ("silent", "faint", "learned"))
ROWS_A_DAY, WINDOW_DAYS = 200, 30


# ---------------------------------------------------------------- one world each: what is claimed not to happen


def evidence(holdout: Answered, folds: list[Answered], policy: GatePolicy, theirs: Floats | None = None) -> Evidence:
    """The measurements of the gate worker; `theirs`: the incumbent's probabilities on the holdout."""
    card = scoring.scorecard(holdout.answers, holdout.rows, prior=holdout.prior, policy=policy)
    skill = pooled_skill.skill(holdout, folds, wanted=FOLDS, policy=policy)
    if theirs is None:
        return Evidence(candidate=card, contract=FITS, skill=skill, incumbent_absence="no model is in service")
    return Evidence(
        candidate=card,
        contract=FITS,
        skill=skill,
        incumbent=scoring.scorecard(theirs, holdout.rows, prior=holdout.prior, policy=policy),
        comparison=scoring.comparison(holdout.answers, theirs, holdout.rows, policy=policy),
    )


def may_have_skill(holdout: Answered, policy: GatePolicy) -> bool:
    """Whether the holdout alone agrees: without that, the skill gate cannot pass, and the rest need not be measured."""
    labels, answers = holdout.rows.labels, holdout.answers
    gain = statistics.log_losses(labels, np.full(len(labels), holdout.prior)) - statistics.log_losses(labels, answers)
    if gain.mean() <= 0:
        return False
    return (pooled_skill.skill(holdout, [], wanted=0, policy=policy).holdout_auc_low or 0.0) > 0.5


def verdicts(kind: Kind, seed: int, answers: Callable[[World], Floats], policy: GatePolicy = POLICY) -> dict[str, bool]:
    """Whether the skill gate passes, and whether all gates do, without an incumbent."""
    world = World(kind, seed)
    given = answers(world)
    holdout, *folds = (world.answered(given, fold) for fold in range(FOLDS + 1))
    if not may_have_skill(holdout, policy):
        return {"skill gate": False, "all gates": False}
    found = evidence(holdout, folds, policy)
    return {
        "skill gate": SKILL.judge(found, policy).result == "PASS",
        "all gates": decide(found, policy).decision is Decision.PASS,
    }


def bounds(kind: Kind, seed: int) -> dict[str, bool]:
    """Whether a bound of the AUC is above 0.5 though there is no skill; 0.1 % is claimed."""
    world = World(kind, seed)
    holdout, *folds = (world.answered(world.silent, fold) for fold in range(FOLDS + 1))
    alone = replace(POLICY, holdout_alpha=POLICY.skill_alpha)
    low = pooled_skill.skill(holdout, [], wanted=0, policy=alone).holdout_auc_low
    pooled = pooled_skill.skill(holdout, folds, wanted=FOLDS, policy=ONE_POOL).pooled[-1].auc_low
    return {"AUC bound, holdout": (low or 0.0) > 0.5, "AUC bound, pooled": (pooled or 0.0) > 0.5}


def incumbent_bound(kind: Kind, seed: int, worse_by: float) -> dict[str, bool]:
    """Whether a candidate that is worse than the incumbent by `worse_by` nats (negative: better) passes its gate."""
    world = World(kind, seed)
    ours, theirs = (world.answered(spoiled(world, max(0.0, worse)), 0) for worse in (worse_by, -worse_by))
    paired = scoring.comparison(ours.answers, theirs.answers, ours.rows, policy=POLICY)
    is_met = paired.log_loss_gain_low is not None and paired.log_loss_gain_low >= -POLICY.incumbent_margin
    name = f"{'worse' if worse_by > 0 else 'better'} by {abs(worse_by):g}"
    return {
        f"{name}, bound met": is_met,
        f"{name}, incumbent gate": is_met and (paired.log_loss_gain or 0.0) >= MIN_GAIN,
    }


def useless(world: World) -> Floats:
    """Probabilities (N,) with skill, so noisy that their log loss is that of the constant prior on average."""
    return spoiled(world, _best_gain(world.kind.edge))


@cache
def _best_gain(edge: float) -> float:
    p = true_probabilities(np.random.default_rng(1).standard_normal(400_000), edge)
    return float(np.log(2.0) - np.mean(special.entr(p) + special.entr(1.0 - p)))


def spoiled(world: World, worse_by: float) -> Floats:
    """The true probabilities (N,) with deviations that cost `worse_by` nats a row on average."""
    return np.asarray(special.expit(special.logit(world.learned) + _amplitude(world.kind.edge, worse_by) * world.z))


_AMPLITUDES: dict[tuple[float, float], float] = {}


def _amplitude(edge: float, worse_by: float) -> float:
    if (edge, worse_by) not in _AMPLITUDES:
        random = np.random.default_rng(1)
        x, z = random.standard_normal((2, 400_000))
        truth = true_probabilities(x, edge)
        logits = special.logit(truth)

        def cost(amplitude: float) -> float:
            answers = special.expit(logits + amplitude * z)
            return float(np.mean(special.rel_entr(truth, answers) + special.rel_entr(1 - truth, 1 - answers)))

        found = optimize.brentq(lambda amplitude: cost(amplitude) - worse_by, 1e-3, 8.0) if worse_by else 0.0
        _AMPLITUDES[edge, worse_by] = float(found)
    return _AMPLITUDES[edge, worse_by]


def ece_refusal(kind: Kind, seed: int) -> dict[str, bool]:
    """Whether a model whose probabilities are the true ones exceeds its ECE limit."""
    world = World(kind, seed)
    judged = world.answered(world.learned, 0)
    card = scoring.scorecard(judged.answers, judged.rows, prior=0.5, policy=POLICY)
    over = (card.ece or 0.0) > (card.ece_limit or 0.0)
    return {
        "perfect model over its ECE limit": over,
        "perfect model refused for its ECE": (card.ece or 0.0) > (card.ece_limit or 0.0) + POLICY.ece_tolerance,
        "perfect model refused by calibration": any(
            gate.name == "calibration" and gate.result == "FAIL"
            for gate in decide(Evidence(candidate=card, contract=FITS), POLICY).gates
        ),
    }


# ---------------------------------------------------------------- probation


def rolled_back_after(luck_hours: float, seed: int, *, worse_by: float, a_day: int) -> float:
    """Hours of a probation with `a_day` outcomes a day until the rollback of the new model; inf: it stays."""
    policy = ProbationPolicy()
    days = policy.limit_hours / 24
    world = World(Kind(rows=int(a_day * days), days=days, luck_hours=luck_hours, edge=EDGES[0.7]), seed)
    ours, theirs, rows = spoiled(world, worse_by), world.learned, world.rows(slice(None))
    num_analyses, num_analysed = 0, 0
    for hour in np.arange(1.0, policy.limit_hours + 1.0):
        seen = rows.known_at <= START + hour * HOUR
        is_due = seen.sum() >= outcomes_for(policy, last_known=num_analysed) or hour == policy.limit_hours
        if not (is_due or (hour >= policy.hours and hour % 6 == 0)):
            continue
        stricter = replace(POLICY, incumbent_alpha=alpha_of(num_analyses, policy))
        worse = scoring.comparison(theirs[seen], ours[seen], rows.where(seen), policy=stricter)
        is_ending = hour >= policy.hours and is_settled(worse, policy)
        if is_due or is_ending:
            num_analyses, num_analysed = num_analyses + 1, int(seen.sum())
            if (worse.log_loss_gain_low or 0.0) > policy.margin:
                return float(hour)
        if is_ending:
            break
    return np.inf


def probation_table(seeds: range, hours: list[float]) -> None:
    """Shares that are errors have all seeds, the others a quarter of them."""
    few = seeds[: max(1, len(seeds) // 4)]
    print(
        f"\n### Probation, {len(seeds)} streams a cell ({len(few)} from worse by 0.02): share rolled back, and the "
        "median of their hours\n"
    )
    shifts = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
    print("| luck persists, outcomes a day | " + " | ".join(f"worse by {shift:g}" for shift in shifts) + " |")
    print("|---" * (len(shifts) + 1) + "|")
    for luck_hours in hours:
        for a_day in (100, 200, 1000):
            columns = []
            for shift in shifts:
                these = seeds if shift <= ProbationPolicy().margin else few
                found = [rolled_back_after(luck_hours, seed, worse_by=shift, a_day=a_day) for seed in these]
                back = [each for each in found if np.isfinite(each)]
                columns.append(f"{100 * len(back) / len(these):.1f} %" + (f", {np.median(back):.0f} h" if back else ""))
            print(f"| {luck_hours:g} h, {a_day} | {' | '.join(columns)} |", flush=True)


# ---------------------------------------------------------------- years


def year(luck_hours: float, seed: int) -> int:
    """False promotions of a year of daily decisions without anything to learn."""
    days = WINDOW_DAYS + 365
    world = World(Kind(rows=days * ROWS_A_DAY, days=float(days), luck_hours=luck_hours), seed)
    answers = [special.expit(0.5 * (0.8 * world.z + 0.6 * own)) for own in (world.x, world.other)]
    last, serving, promoted = None, -1, 0
    for day in range(WINDOW_DAYS, days):
        now = START + day * 24 * HOUR
        at = datetime.fromtimestamp(now / 1e6, UTC)
        last = spend(last, at=at, skill_alpha=POLICY.skill_alpha, per_year=POLICY.false_promotions_per_year)
        first, end = np.searchsorted(world.decided_at, [now - WINDOW_DAYS * 24 * HOUR, now - 4 * HOUR])
        ours = answers[day % len(answers)]
        before = first + int((end - first) * 0.85)
        size = int((before - first) * 0.15)
        holdout = _answered(world, ours, before, end)
        policy = POLICY.spending(last.alpha)
        if not may_have_skill(holdout, policy):
            continue
        folds = [
            _answered(world, ours, before - fold * size, before - (fold - 1) * size) for fold in range(1, FOLDS + 1)
        ]
        theirs = None if serving < 0 else answers[serving][holdout_part(before, end)]
        if decide(evidence(holdout, folds, policy, theirs), policy).decision is Decision.PASS:
            promoted, serving = promoted + 1, day % len(answers)
    return promoted


def holdout_part(first: int, end: int) -> slice:
    return slice(first + ROWS_A_DAY // 24, end)


def _answered(world: World, answers: Floats, first: int, end: int) -> Answered:
    part = holdout_part(first, end)
    return Answered(answers=answers[part], rows=world.rows(part), prior=0.5)


# ---------------------------------------------------------------- tables


def every_claim(kind: Kind, seed: int) -> dict[str, bool]:
    """Bounds and verdicts where there is no skill."""
    return bounds(kind, seed) | verdicts(kind, seed, SILENT)


def titled(title: str, kind: Kind, answers: Callable[[World], Floats], seed: int) -> dict[str, bool]:
    """The verdicts under `title`."""
    return {f"{title}, {name}": is_so for name, is_so in verdicts(kind, seed, answers).items()}


def calibrated_verdict(auc: float, kind: Kind, answers: Callable[[World], Floats], seed: int) -> dict[str, bool]:
    return {f"AUC {auc:g}, GATE_PROFILE=calibrated": verdicts(kind, seed, answers, CALIBRATED)["all gates"]}


def cells(hours_given: list[float]) -> Iterator[tuple[str, str, Callable[[int], dict[str, bool]]]]:
    """(group, column, one world) of each cell."""
    for hours in hours_given:
        column, skilled = f"{hours:g} h", Kind(luck_hours=hours, edge=EDGES[0.7])
        yield "skill", column, partial(every_claim, Kind(luck_hours=hours))
        dead = replace(skilled, dies_at_seam=True)
        yield "seam", column, partial(titled, "edge dead at the seam", dead, LEARNED)
        yield "gain", column, partial(titled, "skill but no gain over the prior", skilled, useless)
        for worse_by in (0.011, 0.03, -0.02, -0.05):
            yield "incumbent", column, partial(incumbent_bound, skilled, worse_by=worse_by)
        yield "ece", column, partial(ece_refusal, skilled)
        for rows, (auc, edge) in itertools.product(TABLES, EDGES.items()):
            kind = Kind(rows=rows, days=rows / ROWS_A_DAY, luck_hours=hours, edge=edge)
            title = f"{column}, holdout of {round(rows * HOLDOUT)} rows"
            yield "power", title, partial(titled, f"AUC {auc:g}", kind, LEARNED)
        for auc, edge in {0.5: 0.0, **EDGES}.items():
            kind = Kind(luck_hours=hours, edge=edge)
            yield "profile", column, partial(calibrated_verdict, auc, kind, LEARNED if edge else FAINT)
    others = {
        "bursts, 2 h": Kind(has_bursts=True),
        "bursts, 24 h": Kind(has_bursts=True, luck_hours=24.0),
        "one symbol 92 %, 24 h": Kind(dominating=0.92, luck_hours=24.0),
        "one symbol 92 %, 48 h": Kind(dominating=0.92, luck_hours=48.0),
        "wins close sooner, 2 h": Kind(has_uneven_delays=True),
        "two symbols added, 24 h": Kind(has_late_symbols=True, luck_hours=24.0),
    }
    for column, kind in others.items():
        yield "worlds", column, partial(every_claim, kind)
    changed = Kind(edge=EDGES[0.7], inverted_until=0.7)
    yield "worlds", "label rule changes inside the window", partial(verdicts, changed, answers=LEARNED)


def share(hits: int, of: int) -> str:
    """`1.2 % (0.5..2.3)`, Clopper-Pearson, 95 %."""
    interval = stats.binomtest(hits, of).proportion_ci(0.95, method="exact")
    return f"{100 * hits / of:.2f} % ({100 * interval.low:.2f}..{100 * interval.high:.2f})"


def claims_table(seeds: range, only: str, hours: list[float]) -> None:
    worlds = len(seeds)
    print(f"\n| measured, {worlds} worlds | world | share |\n|---|---|---|")
    for group, column, one in cells(hours):
        if only and group not in only.split(","):
            continue
        found = [one(seed) for seed in seeds]
        for name in found[0]:
            print(f"| {name} | {column} | {share(sum(each[name] for each in found), worlds)} |", flush=True)


def years_table(seeds: range, hours_given: list[float]) -> None:
    years = len(seeds)
    print("\n| luck persists | false promotions a year | years |\n|---|---|---|")
    for hours in hours_given:
        counts = [year(hours, seed) for seed in seeds]
        total = sum(counts)
        low = stats.chi2.ppf(0.025, 2 * total) / 2 / years if total else 0.0
        high = stats.chi2.ppf(0.975, 2 * total + 2) / 2 / years
        print(f"| {hours:g} h | {total / years:.3f} ({low:.3f}..{high:.3f}) | {years} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=2000, help="of each cell")
    parser.add_argument("--first-seed", type=int, default=5000, help="of the worlds; thresholds were tuned below 5000")
    parser.add_argument("--years", type=int, default=300, help="simulated years for each persistence")
    parser.add_argument(
        "--only", default="", help="skill, seam, gain, incumbent, ece, power, profile, worlds, probation, years"
    )
    parser.add_argument("--hours", type=float, nargs="+", default=HOURS, help="for which luck persists")
    options = parser.parse_args()
    first = options.first_seed
    if options.only not in {"years", "probation"}:
        claims_table(range(first, first + options.worlds), options.only, options.hours)
    if not options.only or "probation" in options.only.split(","):
        probation_table(range(first, first + max(1, options.worlds // 4)), options.hours)
    if not options.only or "years" in options.only.split(","):
        years_table(
            range(first, first + options.years), [hours for hours in options.hours if hours in (2.0, 24.0, 48.0)]
        )


if __name__ == "__main__":
    main()
