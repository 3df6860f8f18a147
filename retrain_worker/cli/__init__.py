"""The commands, one module each, imported when they run."""

from retrain_worker.cli.parser import parse

__all__ = ["parse"]
