"""The command: picks the verb, maps its errors to exit codes.

Exit codes: 0 done or PROMOTED, 1 FAILED or an error, 2 wrong usage, 10 SKIPPED, 11 REFUSED, 12 INTERRUPTED,
78 wrong settings (EX_CONFIG: systemd does not restart on it).
"""

from __future__ import annotations

import io
import os
import signal
import sys

# A SIGHUP before the daemon has installed its handler would end the process, and systemd would call that a clean stop
# (Patroni #3300). Ignored from the first line on; Signals takes over.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

from retrain_worker.cli import parse  # noqa: E402
from retrain_worker.domain.printable import printable  # noqa: E402
from retrain_worker.errors import RetrainError, SettingsError, UsageError  # noqa: E402

_INSTALL_NAME = "retrain-worker"


def main() -> int:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a mark that the terminal does not know must not change how it ends
    arguments = parse(sys.argv[1:])
    # A verb that only looks still has something to tidy up; those that run install handlers of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return int(arguments.execute(arguments))
    except RetrainError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "retrain_worker"):
            raise
        return _fail(
            UsageError(
                f"`{arguments.verb}` needs the package {error.name}, which is not installed",
                remedy=f"pip install '{_INSTALL_NAME}[daemon]' (this installation can consume events)",
            )
        )
    except BrokenPipeError:
        # The reader of our output went away (`retrain-worker history | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(RetrainError(error.strerror or str(error), where=str(error.filename or "")))
    except KeyboardInterrupt:
        return 130


def _fail(error: RetrainError) -> int:
    """Say what is wrong, one line for each problem; the exit code."""
    for message in error.problems if isinstance(error, SettingsError) else (str(error),):
        print(f"retrain-worker: {printable(message)}", file=sys.stderr)  # noqa: T201
    if isinstance(error, SettingsError):
        return os.EX_CONFIG
    return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(main())
