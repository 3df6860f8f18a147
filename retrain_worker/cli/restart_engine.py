"""`restart-engine`: what the path unit runs as root after a swap. Looks at the slot itself before it restarts."""

from __future__ import annotations

import argparse

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "exit: 0 restarted, or not running; 1 the slot is invalid or the unit fails"
    options.add_places(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Restart until the engine was started with what the env file names. Raises SlotError, ArtifactError."""
    import structlog

    from retrain_worker.adapters import journal
    from retrain_worker.adapters.verified_engine_restart import EngineRestart
    from retrain_worker.daemon.signatures import required_verifier
    from retrain_worker.errors import RetrainError

    settings = options.read_valid_settings(arguments)
    log_output = journal.configure(level=settings.log_level, form=settings.log_format)
    log = structlog.get_logger()
    try:
        engine = EngineRestart(
            engine_models_dir=settings.engine_models_dir,
            engine_env_file=settings.engine_env_file,
            unit=settings.engine_unit,
            verifier=required_verifier(settings),
        )
        log.info("engine_restarted", message=engine.restart())
    except RetrainError as error:
        log.error("engine_not_restarted", message=str(error))  # noqa: TRY400 - the sentence is enough
        return ExitCode.FAILED
    finally:
        log_output.flush()
    return ExitCode.DONE
