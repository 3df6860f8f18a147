"""How often bad candidates pass the gates and good ones are refused, beside the seed's rules.

    python benchmarks/gates.py            300 markets of each kind, 20 years, 8 that change, 2 trainings, 100 worlds
    python benchmarks/gates.py --quick    40 markets of each kind, nothing else
    python benchmarks/gates.py --full     1,000 markets, 100 years, 24 that change, 20 trainings, 2,000 worlds

The seed's rules are gates 1 and 2 of its proof pack: no action over 70 %, two over 10 %; std of P(WIN) at least 0.05
and P90 - P10 at least 0.12. Intervals are Clopper-Pearson, 95 %. A training is one of (a) and one of (h).
Worlds: those of gate_claims.py, in which luck persists. GATE_ settings in the environment replace the defaults.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

# before numpy: one process per core; synchronising threads cost more than they gain
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import gate_claims  # noqa: E402
import gate_markets  # noqa: E402
import gate_trainings  # noqa: E402
import gate_years  # noqa: E402
from gate_markets import POLICY  # noqa: E402
from scipy import stats  # noqa: E402

from retrain_worker.domain.gates import Decision, Evidence, GateOutcome, decide  # noqa: E402

HEADER = (
    "| market and candidate | markets | approved by this program | by the seed's rules | goal | stopped by |\n"
    "|---|---|---|---|---|---|"
)
GOALS = {**dict.fromkeys("abcdefikl", "<= 0.3 %"), "g": "-", "h": ">= 95 %", "j": "<= 2 %", "h60": "-", "j1": "-"}


def judged(evidence: Evidence) -> tuple[bool, bool, tuple[str, ...]]:
    """(approved by this program, approved by the seed's rules, gates that did not pass)."""
    verdict = decide(evidence, POLICY)
    stopped = tuple(gate.name for gate in verdict.gates if gate.counts and gate.result is not GateOutcome.PASS)
    return verdict.decision is Decision.PASS, gate_markets.seed_rules(evidence.candidate), stopped


def one_market(kind_and_seed: tuple[str, int]) -> tuple[bool, bool, tuple[str, ...]]:
    kind, seed = kind_and_seed
    return judged(gate_markets.KINDS[kind](seed))


def share(hits: int, of: int) -> str:
    """`1.2 % (0.5..2.3)`."""
    if not of:
        return "-"
    interval = stats.binomtest(hits, of).proportion_ci(0.95, method="exact")
    return f"{hits / of:.1%} ({100 * interval.low:.1f}..{100 * interval.high:.1f})"


def row(kind: str, title: str, found: Iterable[tuple[bool, bool, tuple[str, ...]]]) -> str:
    answers = list(found)
    stopped = Counter(name for _, _, names in answers for name in names)
    by = ", ".join(f"{name} {100 * count / len(answers):.0f} %" for name, count in stopped.most_common(3))
    ours, seeds = sum(passed for passed, _, _ in answers), sum(passed for _, passed, _ in answers)
    return (
        f"| {title} | {len(answers)} | {share(ours, len(answers))} | {share(seeds, len(answers))} "
        f"| {GOALS[kind]} | {by or '-'} |"
    )


def markets_table(seeds: range, run: Callable[..., Iterable[tuple[bool, bool, tuple[str, ...]]]], kinds: str) -> None:
    print("\n### Approved, of simulated markets in which the right verdict is known\n")
    print(HEADER)
    for kind, make in gate_markets.KINDS.items():
        if kinds and kind not in kinds.split(","):
            continue
        title = (make.__doc__ or "").strip().removesuffix(".")
        print(row(kind, title, run(one_market, [(kind, seed) for seed in seeds], chunksize=5)), flush=True)


def trainings_table(count: int, run: Callable[..., Iterable[Evidence]], kinds: str) -> None:
    print("\n### The same with real trainings: PatchTST, three backtest folds, the whole run\n")
    print(HEADER)
    for kind, title in gate_trainings.TITLES.items():
        if kinds and kind not in kinds.split(","):
            continue
        found = (judged(evidence) for evidence in run(gate_trainings.train, [(kind, seed) for seed in range(count)]))
        print(row(kind, title, found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--markets", type=int, help="markets of each kind (0: none)")
    parser.add_argument("--years", type=int, help="years of daily retraining (0: none)")
    parser.add_argument("--changes", type=int, help="markets whose regime changes (0: none)")
    parser.add_argument("--trainings", type=int, help="real trainings each of (a) and (h) (0: none)")
    parser.add_argument("--worlds", type=int, help="worlds with persistent luck, each cell (0: none)")
    parser.add_argument("--first-seed", type=int, default=5000, help="of the markets; thresholds were tuned below 5000")
    parser.add_argument("--kinds", default="", help="only these, e.g. a,h")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    defaults = (
        (1000, 100, 24, 20, 2000) if options.full else (40, 0, 0, 0, 0) if options.quick else (300, 20, 8, 2, 100)
    )
    given = (options.markets, options.years, options.changes, options.trainings, options.worlds)
    markets, years, changes, trainings, worlds = (
        default if one is None else one for default, one in zip(defaults, given, strict=True)
    )
    started = time.monotonic()
    with ProcessPoolExecutor(options.jobs) as pool:
        if markets:
            markets_table(range(options.first_seed, options.first_seed + markets), pool.map, options.kinds)
        if years:
            gate_years.spending_table(500 if options.full else 100)
            gate_years.years_table(years, pool.map)
        if changes:
            gate_years.changes_table(changes, pool.map)
        if trainings:
            trainings_table(trainings, pool.map, options.kinds)
    if worlds:
        seeds = range(options.first_seed, options.first_seed + worlds)
        gate_claims.claims_table(seeds, "", list(gate_claims.HOURS))
    print(f"\n{time.monotonic() - started:.0f} s with {options.jobs} processes")


if __name__ == "__main__":
    main()
