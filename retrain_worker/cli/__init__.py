"""The commands, one module each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from retrain_worker import __version__
from retrain_worker.cli import (
    access,
    audit,
    check,
    demo,
    deployments,
    discover,
    evaluate,
    events,
    export,
    gates,
    history,
    inspect,
    once,
    pause,
    promote,
    reload,
    report,
    restart_engine,
    rollback,
    run,
    status,
    trigger,
)

_VERBS = (
    once,
    run,
    check,
    discover,
    audit,
    status,
    history,
    report,
    gates,
    evaluate,
    deployments,
    rollback,
    pause,
    promote,
    events,
    trigger,
    inspect,
    export,
    reload,
    restart_engine,
    access,
    demo,
)

_EPILOG = """\
examples:
  retrain-worker demo                              one run on a simulated market
  retrain-worker check                             what is missing before the first start, and how to correct it
  retrain-worker discover /opt /home /etc          which files hold training data, and which settings name others
  retrain-worker once --db trader.db --home /tmp/try   one run; everything it writes is under /tmp/try
  retrain-worker inspect model.pth                 what a model file is, and whether it can be trusted
  retrain-worker evaluate model.pth                what the gate would say of it; nothing is promoted
  retrain-worker report                            what came of the newest run; --html FILE for the browser
  retrain-worker status                            what serves, what ran, what runs next, what waits
  retrain-worker rollback --reason "loses money"   the previous good model returns, verified first
  retrain-worker pause --reason "..." --for 3d     promote nothing until then, or until `resume`
  retrain-worker promote RUN --force --reason "..."   a candidate that its gate could not judge, at your word
  retrain-worker events tail --follow              what goes over the streams, as it happens
exit codes: 0 PROMOTED or done, 10 SKIPPED, 11 REFUSED, 12 INTERRUPTED, 1 FAILED, 2 usage, 78 settings
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The chosen verb and its options; `execute` does it. Exits with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="retrain-worker",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Continuous retraining of PatchTST: audited data, honest gates, a swap that is never half-done.",
    )
    parser.add_argument("--version", action="version", version=f"retrain-worker {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add_to(verbs)
    return parser.parse_args(arguments)
