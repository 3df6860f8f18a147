"""Brings the JSON that an earlier version stored to the names of this one: once, when the state database is migrated.

A value without the expected shape is left as it is; stored_json.py reports that it cannot be read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

_TRIAL_NAMES = {
    "look": "evaluation",
    "look_at": "evaluation_at",
    "book": "prediction_log",
    "observed": "num_predictions",
    "foreseen": "num_early_predictions",
    "known": "num_outcomes",
    "absence": "reference_absence",
}
_PROBATION_NAMES = {
    "num_decided": "num_analyses",
    "last_known": "num_outcomes_analysed",
    "unsound": "is_file_suspect",
    "tries": "num_rollback_requests",
    "engine": "engine_finding",
}
_SCORECARD_NAMES = {
    "confidence_slope": "calibration_slope",
    "confidence_slope_high": "calibration_slope_high",
    "worst_fall_z": "monotonicity_z",
}
_POLICY_NAMES = {
    "min_spread_std": "min_std",
    "min_spread_p10_p90": "min_p10_p90",
    "newest_alpha": "holdout_alpha",
    "min_confidence_slope": "min_calibration_slope",
}


def facts_1_to_2(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a run: untyped mappings, up to version 0.1."""
    upgrades: Mapping[str, Upgrade] = {
        "audit": _audit,
        "train": _train,
        "gate": _gate,
        "shadow": _shadow,
        "probation": _probation,
    }
    # an empty mapping was a stage that had not begun
    found = {name: fact for name, fact in facts.items() if fact != {}}
    return {"schema": 2} | {
        name: upgrades[name](fact) if name in upgrades and isinstance(fact, dict) else fact
        for name, fact in found.items()
    }


def slot_request_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a slot request: texts, of which "yes" means true."""
    names = {"force": "is_forced", "accept_contract": "accepted_contract", "opened": "opened_run_id"}
    flags = ("is_forced", "to_none")
    return {name: value == "yes" if name in flags else value for name, value in _renamed(arguments, names).items()}


def memory(values: Mapping[str, str]) -> dict[str, Any]:
    """What the daemon remembers: texts, each of its own form, become one JSON value each."""
    first, _, second = values.get("clock_went_back", "").partition(" ")
    after, _, reason = values.get("follow_up", "").partition(" ")
    milliseconds, _, sequence = values.get("telemetry/cursor", "").partition("-")
    tally = _json(values.get("telemetry/tally", ""))
    counted = {"milliseconds": _json(milliseconds), "sequence": _json(sequence), "tally": tally}
    found = {
        "watermark_path": values.get("watermark_path"),
        "clock_went_back": {"last_attempt_at": first, "noticed_at": second} if second else None,
        "queued_request": {"after_run_id": after, "reason": reason} if reason else None,
        "bookkeeping": {
            "run_id": values.get("booked_until", ""),
            "waiting": values.get("booked_late", "").split(),
            "on_probation": values.get("booked_on_probation", "").split(),
            "serving": values.get("booked_serving", ""),
        },
        "serving_monitor": counted if sequence else None,
        **{key: _json(value) for key, value in values.items() if key.startswith("relay/")},
    }
    return {key: value for key, value in found.items() if value is not None} if values else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _audit(fact: dict[str, Any]) -> dict[str, Any]:
    return fact | {"findings": _with_messages(fact.get("findings"))}


def _train(fact: dict[str, Any]) -> dict[str, Any]:
    try:
        data, split, recipe = json.loads(fact["trained_under"])
        policies = {"data": data, "split": _renamed(split, {"past_folds": "backtest_folds"}), "recipe": recipe}
    except (KeyError, TypeError, ValueError, AttributeError):
        policies = None
    return fact | {"policies": policies}


def _gate(fact: dict[str, Any]) -> dict[str, Any]:
    verdict = {"verdict": _verdict(fact), "comparison": _measured_by("incumbent", fact)}
    folds = {"folds": (_measured_by("skill", fact) or {}).get("folds", [])}
    found: dict[str, Any] = _renamed(fact, {"spending": "alpha_spending"})
    return found | verdict | folds | _scorecards(fact)


def _shadow(fact: dict[str, Any]) -> dict[str, Any]:
    verdict = _verdict(fact) if fact.get("decision") else None
    found = {"verdict": verdict, "comparison": _measured_by("incumbent", fact)}
    return _trial(fact) | found | _scorecards(fact)


def _probation(fact: dict[str, Any]) -> dict[str, Any]:
    known, reasons = fact.get("known"), fact.get("reasons")
    found: dict[str, Any] = _renamed(_trial(fact), _PROBATION_NAMES)
    found["worse"] = _gain(known, fact.get("worse_by"), fact.get("worse_by_low"))
    found["comparison"] = _gain(known, fact.get("log_loss_gain"), None)
    if fact.get("decision"):
        found["rollback_reason"] = reasons[0] if isinstance(reasons, list) and reasons else "not recorded"
    return found


def _trial(fact: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _renamed(fact, _TRIAL_NAMES)
    if "prediction_log" in found:
        found["prediction_log"] = f"book_{found['prediction_log']}"  # the name of its file
    return found


def _verdict(fact: dict[str, Any]) -> dict[str, Any]:
    return {
        "decision": fact.get("decision"),
        "gates": _with_messages(fact.get("gates")),
        "policy": _renamed(fact.get("policy", {}), _POLICY_NAMES),
    }


def _scorecards(fact: dict[str, Any]) -> dict[str, Any]:
    cards = {name: fact.get(name) for name in ("candidate", "incumbent")}
    return {name: _renamed(card, _SCORECARD_NAMES) for name, card in cards.items()}


def _measured_by(name: str, fact: dict[str, Any]) -> dict[str, Any] | None:
    """The measurements of a gate, which were the only place of some; None when there are none."""
    gates: Any = fact.get("gates") if isinstance(fact.get("gates"), list) else []
    named = {str(gate.get("name")): gate.get("measurements") for gate in gates if isinstance(gate, dict)}
    found = named.get(name)
    return found if found and isinstance(found, dict) else None


def _gain(n: object, gain: object, low: object) -> dict[str, Any] | None:
    return None if gain is None else {"n": n, "auc_difference": None, "log_loss_gain": gain, "log_loss_gain_low": low}


def _with_messages(items: Any) -> Any:
    if not isinstance(items, list):
        return items
    return [_renamed(item, {"sentence": "message"}) for item in items]


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A mapping with other names; anything else as it is."""
    return {names.get(name, name): each for name, each in value.items()} if isinstance(value, dict) else value
