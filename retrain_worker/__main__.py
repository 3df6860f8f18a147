"""The command: picks the verb, maps its errors to exit codes (cli/exit_codes.py)."""

from __future__ import annotations

import io
import os
import signal
import sys

# A SIGHUP before the daemon has installed its handler would end the process, and systemd would call that a clean stop
# (Patroni #3300). Ignored from the first line on; Signals takes over.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

from retrain_worker.cli import parse  # noqa: E402
from retrain_worker.cli.exit_codes import exit_code_of  # noqa: E402
from retrain_worker.cli.screen import show_error  # noqa: E402
from retrain_worker.domain.host_names import INSTANCE_VARIABLE  # noqa: E402
from retrain_worker.errors import RetrainError, UsageError, install_extra  # noqa: E402


def main() -> int:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a mark that the terminal does not know must not change how it ends
    verb = ""
    try:
        arguments = parse(sys.argv[1:])
        verb = arguments.verb
        if instance := getattr(arguments, "instance", None):
            os.environ[INSTANCE_VARIABLE] = instance
        # A verb that only looks still has something to tidy up; those that run install handlers of their own.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return int(arguments.execute(arguments))
    except RetrainError as error:
        return _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "retrain_worker"):
            raise
        return _fail(
            UsageError(
                f"`{verb}` needs the package {error.name}, which is not installed",
                remedy=f"{install_extra('daemon')} (this installation can consume events)",
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
    """Report the error; the exit code."""
    code = exit_code_of(error)
    show_error(error, exit_code=code, json="--json" in sys.argv)
    return code


if __name__ == "__main__":
    sys.exit(main())
