"""`config`: each setting, its value, default and source; what a reload would change, and what the last one did."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from retrain_worker.cli.results import SettingReport
    from retrain_worker.settings import Settings


#: columns of a terminal from which settings are a table
_WIDTH_FOR_TABLE = 100


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = actions.add_parser("show", help="each setting, its value, its default, and where the value comes from")
    options.add_places(shown)
    options.add_database(shown)
    shown.add_argument("--changed", action="store_true", help="only settings that differ from their default")
    options.add_json(shown)
    shown.set_defaults(execute=execute_show, parser=shown)
    diff = actions.add_parser(
        "diff", help="what a reload would change in the running daemon, and what the last one did"
    )
    options.add_places(diff)
    options.add_json(diff)
    diff.set_defaults(execute=execute_diff, parser=diff)


def execute_show(arguments: argparse.Namespace) -> int:
    """Print the settings."""
    from retrain_worker.cli.screen import show

    loaded = options.read_valid_settings(arguments)
    found = [one for one in _reports(arguments, loaded) if one.is_changed or not arguments.changed]
    show(arguments, found, lambda: _table(found))
    return ExitCode.DONE


def execute_diff(arguments: argparse.Namespace) -> int:
    """Print both lists. Raises UsageError without a running daemon, SettingsError when the settings are invalid."""
    from retrain_worker.adapters import reload_result
    from retrain_worker.cli.results import ConfigDiff
    from retrain_worker.cli.screen import pairs, show
    from retrain_worker.domain.setting_change import changes
    from retrain_worker.domain.setting_change import shown as masked
    from retrain_worker.errors import UsageError
    from retrain_worker.settings import reload_answer_path

    loaded = options.read_settings(arguments)
    pid = options.daemon_pid(loaded)
    path = reload_answer_path(os.environ, home=loaded.home, host_names=loaded.host_names)
    last = reload_result.read(path)
    if last is None or last.pid != pid or not last.in_force:
        raise UsageError("the daemon has not stored its settings", where=str(path), remedy="restart it")
    now = {name: masked(name, value) for name, value in loaded.values.items()}
    found = ConfigDiff(pending=tuple(changes(last.in_force, now)), last_reload=last.changes)
    lists = (("a reload would change", found.pending), ("the last reload has changed", found.last_reload))
    lines = []
    for title, listed in lists:
        lines.append(("", f"{title}:" if listed else f"{title} nothing", "bold"))
        lines.extend(("", f"  {each.message}", "") for each in listed)
    show(arguments, found, lambda: pairs(lines))
    return ExitCode.DONE


def _reports(arguments: argparse.Namespace, loaded: Settings) -> Iterator[SettingReport]:
    from retrain_worker.cli.results import SettingReport
    from retrain_worker.domain.setting_change import shown

    sources = options.sources(arguments)
    for name, default in loaded.names.items():
        value = loaded.values[name]
        is_changed = value != default
        given = sources.get(name, "default")
        if given == "default" and is_changed:
            given = "--db" if arguments.db and name in ("DB_PATH", "DATABASE_URL") else "--home"
        yield SettingReport(
            name=name, value=shown(name, value), default=shown(name, default), source=given, is_changed=is_changed
        )


def _lines(one: SettingReport) -> Iterator[tuple[str, str, str]]:
    """A setting on a narrow terminal."""
    yield one.name, one.value, "bold" if one.is_changed else ""
    if one.is_changed:
        yield "", f"default {one.default or 'empty'}; from {one.source}", "dim"


def _table(found: Sequence[SettingReport]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from retrain_worker.cli.screen import pairs, width

    if not found:
        return Text("every setting has its default")
    if width() < _WIDTH_FOR_TABLE:
        return pairs(line for one in found for line in _lines(one))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("setting", "value", "default", "source"):
        table.add_column(name, overflow="fold")
    for one in found:
        style = "bold" if one.is_changed else ""
        table.add_row(Text(one.name, style), Text(one.value, style), Text(one.default, "dim"), Text(one.source))
    return table
