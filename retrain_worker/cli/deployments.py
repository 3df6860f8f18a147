"""`deployments`: the changes of the engine's slot: who made them, when, why, and whether they were confirmed."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from retrain_worker.cli import options

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from retrain_worker.adapters.state_db import StateDb
    from retrain_worker.domain.lifecycle import Deployment

_HEADER = ("", "when (UTC)", "kind", "version", "sha256", "confirmed", "who", "why")


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("deployments", help="changes of the engine's slot: who, when, why, confirmed or not")
    options.add_places(parser)
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="the newest N (default 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the deployments, newest first; the current one is marked."""
    from retrain_worker.cli.once import as_json

    store = options.open_state(options.read_valid_settings(arguments))
    if store is None:
        print("no deployment yet")
        return 0
    with store:
        found = store.deployments(limit=arguments.limit)
        if arguments.json:
            for one in found:
                print(as_json(asdict(one)))
            return 0
        print(_table(found, store) if found else "no deployment yet")
    return 0


def _table(found: list[Deployment], store: StateDb) -> str:
    current = store.last_deployment()
    rows = [_HEADER, *(_row(one, is_current=one == current) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER) - 1)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])).rstrip()
        for row in rows
    ]
    if (waiting := store.waiting_slot_request()) is not None:
        lines.append(f"{waiting.request_id} by {waiting.requested_by} ({waiting.reason}): {waiting.answer}")
    if current is not None:
        lines.append("* in the slot")
    return "\n".join(lines)


def _row(one: Deployment, *, is_current: bool) -> tuple[str, ...]:
    from retrain_worker.domain.lifecycle import DeploymentState

    states = {
        DeploymentState.CONFIRMED: "yes",
        DeploymentState.NOT_CONFIRMED: "no",
        DeploymentState.NOT_ASKED: "not asked",
    }
    return (
        "*" if is_current else "",
        f"{one.created_at:%Y-%m-%d %H:%M:%S}",
        one.kind,
        one.version,
        one.sha256[:12] or "-",
        states.get(one.state, one.state.lower()),
        one.requested_by,
        f"{one.reason}; {one.confirmation}" if one.confirmation else one.reason,
    )
