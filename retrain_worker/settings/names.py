"""Names of settings: former ones that are still accepted, unknown ones, likely misspellings."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

#: former name -> name
RENAMED = {
    "CHILD_MEMORY_MB": "WORKER_MEMORY_MB",
    "CHILD_NICE": "WORKER_NICE",
    "GATE_PAST_FOLDS": "GATE_BACKTEST_FOLDS",
    "GATE_MIN_SPREAD_STD": "GATE_MIN_STD",
    "GATE_MIN_SPREAD_P10_P90": "GATE_MIN_P10_P90",
    "GATE_MIN_CONFIDENCE_SLOPE": "GATE_MIN_CALIBRATION_SLOPE",
    "GATE_NEWEST_ALPHA": "GATE_HOLDOUT_ALPHA",
    "TRIAL_CHECK_MIN": "TRIAL_INTERVAL_MIN",
}
#: former name -> what became of it; it has no effect
REMOVED = {"PRETRAIN_EPOCHS": "pre-training took 14 times the time of a training and improved none"}
#: (name, former value) -> value
RENAMED_VALUES = {
    ("ENGINE_CONFIRM", "telemetry"): "answers",
    ("BALANCE", "true"): "undersample",
    ("BALANCE", "false"): "none",
}


@dataclass(frozen=True, kw_only=True)
class CurrentNames:
    """An environment in which every setting has its current name and value."""

    environment: Mapping[str, str]
    #: one message for each former name or value, and for each removed setting, that was given
    deprecations: tuple[str, ...]
    problems: tuple[str, ...]


def with_current_names(environment: Mapping[str, str]) -> CurrentNames:
    """Replace former names and values, drop removed settings.

    A setting given by both names with different values is a problem.
    """
    current = dict(environment)
    deprecations, problems = [], []
    for former, reason in REMOVED.items():
        if current.pop(former, "").strip():
            deprecations.append(f"{former} was removed and has no effect ({reason}); delete it")
    for former, name in RENAMED.items():
        value = current.pop(former, "").strip()
        if not value:
            continue
        deprecations.append(f"{former} is deprecated; rename it to {name}")
        if current.get(name, "").strip() not in ("", value):
            problems.append(f"{name} and {former}, its deprecated name, have different values; remove {former}")
        current[name] = value
    for (name, former), value in RENAMED_VALUES.items():
        if current.get(name, "").strip().lower() == former:
            deprecations.append(f"{name}={former} is deprecated; write {name}={value}")
            current[name] = value
    return CurrentNames(environment=current, deprecations=tuple(deprecations), problems=tuple(problems))


def likely_misspellings(given: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """One message for each name in `given` that is not a setting and resembles one of the `known` settings."""
    found = []
    for name in unknown_names(given, known):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if close:
            found.append(f"{name} is not a setting; was {close[0]} meant?")
    return tuple(found)


def unknown_names(given: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Names that no setting has or had: variables for PyTorch and other libraries, or mistakes."""
    return tuple(name for name in given if name not in known and name not in RENAMED and name not in REMOVED)
