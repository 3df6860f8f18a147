"""`deployments`: the changes of the engine's slot: who made them, when, why, and whether they were confirmed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.domain.lifecycle import Deployment
    from retrain_worker.domain.slot_request import SlotRequest


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_places(parser)
    options.add_limit(parser)
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the deployments, newest first; the current one is marked."""
    from retrain_worker.cli.screen import show

    found: Sequence[Deployment] = ()
    current: Deployment | None = None
    waiting: SlotRequest | None = None
    store = options.open_state(options.read_valid_settings(arguments))
    if store is not None:
        with store:
            found = store.deployments(limit=arguments.limit)
            current, waiting = store.last_deployment(), store.waiting_slot_request()
    show(arguments, found, lambda: _as_text(found, current, waiting))
    return ExitCode.DONE


def _as_text(found: Sequence[Deployment], current: Deployment | None, waiting: SlotRequest | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from retrain_worker.cli.screen import pairs, paragraph

    lines: list[RenderableType] = [Text("no deployment yet")]
    if found:
        lines = [_table(found, current), Text("* in the slot", "dim"), Text()]
        lines.append(pairs((_at(one), _why(one), "") for one in found))
    if waiting is not None:
        request = f"{waiting.request_id} by {waiting.requested_by} ({waiting.reason}): {waiting.answer}"
        lines.append(paragraph(request, "yellow"))
    return Group(*lines)


def _at(deployment: Deployment) -> str:
    return f"{deployment.created_at:%Y-%m-%d %H:%M:%S}"


def _why(deployment: Deployment) -> str:
    return printable("; ".join(filter(None, (deployment.reason, deployment.confirmation))))


def _table(found: Sequence[Deployment], current: Deployment | None) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from retrain_worker.domain.lifecycle import DeploymentState

    states = {
        DeploymentState.CONFIRMED: Text("yes", "green"),
        DeploymentState.NOT_CONFIRMED: Text("no", "red"),
        DeploymentState.NOT_ASKED: Text("not required"),
    }
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("when (UTC)", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    # whole, to be copied to `rollback VERSION`
    table.add_column("version", overflow="fold", min_width=len("patchtst_v20260110_033000"))
    for name in ("sha256", "confirmed", "who"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(
            "*" if one == current else "",
            _at(one),
            one.kind,
            printable(one.version),
            one.sha256[:12] or "-",
            states.get(one.state) or Text(one.state.lower(), "yellow"),
            printable(one.requested_by),
        )
    return table
