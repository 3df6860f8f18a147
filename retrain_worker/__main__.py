"""The command: picks the verb, maps its errors to exit codes.

Exit codes: 0 done or PROMOTED, 1 FAILED or an error, 2 wrong usage, 10 SKIPPED, 11 REFUSED, 12 INTERRUPTED,
78 wrong settings (EX_CONFIG: systemd does not restart on it).
"""

from __future__ import annotations

import os
import signal
import sys

# A SIGHUP before the daemon has installed its handler would end the process, and systemd would call that a clean stop
# (Patroni #3300). Ignored from the first line on; Signals takes over.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

from retrain_worker.cli import parse  # noqa: E402
from retrain_worker.errors import RetrainError, SettingsError, UsageError  # noqa: E402


def main() -> int:
    """Run the command line of this process."""
    arguments = parse(sys.argv[1:])
    try:
        code: int = arguments.execute(arguments)
    except SettingsError as error:
        for problem in error.problems:
            print(f"retrain-worker: {problem}", file=sys.stderr)  # noqa: T201
        return os.EX_CONFIG
    except UsageError as error:
        print(f"retrain-worker: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except RetrainError as error:
        print(f"retrain-worker: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except BrokenPipeError:
        # The reader of our output went away (`retrain-worker history | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
