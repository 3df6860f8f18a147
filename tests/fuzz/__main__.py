"""`make test-fuzz`: at least a million inputs over all boundaries; prints how they are divided."""

import argparse
import sys

from tests.fuzz.boundaries import BOUNDARIES, run_fuzz


def main() -> int:
    """0 when every input was decoded or refused by a typed error, within its time and memory."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="share of the inputs of a full test")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    total = 0
    print(f"{'boundary':<20} {'inputs':>9} {'refused':>9} {'slowest':>10} {'seconds':>8} {'memory':>9}")
    for boundary in BOUNDARIES:
        result = run_fuzz(boundary, num_inputs=max(1, int(boundary.inputs * options.share)), seed=options.seed)
        total += result.inputs
        print(
            f"{boundary.name:<20} {result.inputs:>9,} {result.refused:>9,} {result.slowest_seconds * 1000:>7.1f} ms "
            f"{result.seconds:>8.1f} {result.grown_bytes / 1e6:>+6.1f} MB",
            flush=True,
        )
    print(f"{total:,} inputs; nothing but typed errors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
