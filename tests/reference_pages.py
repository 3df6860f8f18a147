"""The generated sections of the documents, between `<!-- NAME -->` and `<!-- /NAME -->`.

`python -m tests.reference_pages` writes them; tests/architecture/test_reference_pages.py compares them with the code.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrain_worker import settings
from retrain_worker.adapters.event_schemas import schemas
from retrain_worker.cli.exit_codes import MEANINGS
from retrain_worker.cli.parser import parser_of
from retrain_worker.cli.verbs import VERBS
from retrain_worker.daemon.metrics import METRICS
from retrain_worker.domain.gates import GatePolicy, decision
from retrain_worker.domain.typed_events import PAYLOADS
from retrain_worker.settings import names

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "etc/quantum/retraining-worker.env"
POLICY = asdict(GatePolicy())
_LOGGED = re.compile(
    r"(?:\b(?:log|get_logger\(\))\.(debug|info|warning|error|exception)|\b(write))"
    r'\(\s*"(\w+)"(?: if [^"]* else "(\w+)")?'
)
#: an option of so many verbs is described once
_SHARED = 4
_SEVERE = ("warning", "error")


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; `|` in a cell is escaped."""
    titles = tuple(titles)
    cells = (tuple(cell.replace("|", "\\|") for cell in row) for row in rows)
    lines = (titles, ("---",) * len(titles), *cells)
    return "".join(f"| {' | '.join(line)} |\n".replace("| --- ", "|---").replace("|---| |", "|---|") for line in lines)


# ---------------------------------------------------------------- gates


def setting(name: str) -> str:
    """A field of GatePolicy as a setting with its default."""
    named = {
        "profile": "GATE_PROFILE=seed",
        "agreement_required": "AGREEMENT=advisory",
        "hold_on_constant_window": "CONSTANT_WINDOW=hold",
    }
    return named.get(name) or f"GATE_{name.upper()}={POLICY[name]:g}"


def passes_when() -> list[tuple[str, str]]:
    """(name, when it passes) of each gate."""
    return [
        (
            gate.name + ("" if gate.counts(GatePolicy()) else " (advisory)"),
            gate.requirement.format(**POLICY).replace("%", " %"),
        )
        for gate in decision.GATES
    ]


def readme_gates() -> str:
    """When each gate passes."""
    return table(("gate", "passes when, on the holdout"), passes_when())


def gates() -> str:
    """The same with what a failure means and the settings."""
    rows = (
        (name, requirement, gate.failure, ", ".join(map(setting, gate.thresholds)))
        for (name, requirement), gate in zip(passes_when(), decision.GATES, strict=True)
    )
    return table(("gate", "passes when", "a failure means", "settings"), rows)


# ---------------------------------------------------------------- settings


def described_settings() -> Iterator[tuple[str, str, str, str]]:
    """(section, name, default, meaning) of each line of the env example: its comment is above it."""
    section, comment, is_named = "", list[str](), False
    defaults = settings.load({}).names
    for line in EXAMPLE.read_text().splitlines():
        if heading := re.match(r"# ---- (.*)", line):
            section, comment = heading[1], []
        elif found := re.match(r"#?([A-Z][A-Z0-9_]*)=", line):
            yield section, found[1], defaults[found[1]], " ".join(comment)
            is_named = True
        elif line.startswith("#"):
            comment = [*([] if is_named else comment), line.strip("# ")]
            is_named = False
        else:
            comment, is_named = [], False


def all_settings() -> str:
    """Every setting, by section of the env example; a meaning that holds for several lines stands at the first one."""
    found, text, shown = list(described_settings()), "", ""
    for section in dict.fromkeys(each[0] for each in found):
        rows = []
        for _, name, default, meaning in (each for each in found if each[0] == section):
            rows.append((f"`{name}`", f"`{default}`" if default else "", "the same" if meaning == shown else meaning))
            shown = meaning
        text += f"\n### {section}\n\n{table(('setting', 'default', 'meaning'), rows)}"
    return text.lstrip("\n")


def former_names() -> str:
    """The names and values that are still accepted."""
    values = ((f"{name}={old}", f"{name}={new}") for (name, old), new in names.RENAMED_VALUES.items())
    removed = ((name, f"no effect: {reason}") for name, reason in names.REMOVED.items())
    return table(("former name or value", "now"), (*names.RENAMED.items(), *values, *removed))


# ---------------------------------------------------------------- command line


def exit_codes() -> str:
    """What each exit code means."""
    return table(("exit code", "meaning"), ((str(int(code)), meaning) for code, meaning in MEANINGS.items()))


def verbs() -> str:
    """Every verb with its arguments and options."""
    options = {name: dict(_options(_verb_parser(name))) for name in VERBS}
    uses = Counter(row for own in options.values() for row in own.items())
    shared = dict(row for row, count in uses.items() if count >= _SHARED)
    text = f"### Shared options\n\n{table(('option', 'meaning'), shared.items())}"
    for name, verb in VERBS.items():
        own = [row for row in options[name].items() if row not in shared.items()]
        others = ", ".join(option for option in options[name] if option in shared and option not in dict(own))
        text += f"\n### {name}\n\n{verb.help[:1].upper()}{verb.help[1:]}. Example: `retrain-worker {verb.example}`"
        text += f"; also {others}\n" if others else "\n"
        text += f"\n{table(('argument or option', 'meaning'), own)}" if own else ""
    return text


def _verb_parser(verb: str) -> argparse.ArgumentParser:
    added: Any = next(a for a in parser_of(verb)._actions if isinstance(a, argparse._SubParsersAction))
    parser: argparse.ArgumentParser = added.choices[verb]
    return parser


def _options(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, own in action.choices.items():
                yield f"`{prefix}{name}`", helps.get(name, "")
                yield from _options(own, f"{prefix}{name} ")
        elif action.dest != "help" and action.help is not argparse.SUPPRESS:
            words = action.metavar if isinstance(action.metavar, tuple) else (action.metavar or "",)
            value = "" if action.nargs == 0 else " ".join(words).strip() or _choices(action)
            shown = " ".join(part for part in (", ".join(action.option_strings), value) if part)
            help_text = (action.help or "").replace("%%", "%")
            yield f"`{prefix}{shown or action.dest}`", help_text % vars(action) if "%(" in help_text else help_text


def _choices(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper() if action.option_strings else action.dest


# ---------------------------------------------------------------- log events, metrics, payloads


def logged() -> Mapping[str, set[str]]:
    """Log event -> the levels at which the daemon or a command logs it."""
    found: dict[str, set[str]] = {}
    for package in ("daemon", "cli"):
        for path in sorted((ROOT / "retrain_worker" / package).rglob("*.py")):
            text = path.read_text()
            for call in _LOGGED.finditer(text):
                chosen = text[: call.start()].rpartition("write = ")[2].partition("\n")[0]
                levels = {call[1]} if call[1] else set(re.findall(r"log\.(\w+)", chosen))
                for event in filter(None, call.groups()[2:]):
                    found.setdefault(event, set()).update("error" if each == "exception" else each for each in levels)
    return found


def log_events() -> str:
    """Every log event with its levels. Its meaning is kept from the page: a new one has none, which fails a test."""
    page = (ROOT / "docs/reference/log-events.md").read_text()
    meanings = dict(re.findall(r"^\| `(\w+)` \| [\w, ]+ \| (.*) \|$", page, re.MULTILINE))
    found = sorted(logged().items(), key=lambda each: (each[1].isdisjoint(_SEVERE), each[0]))
    rows = ((f"`{event}`", ", ".join(sorted(levels)), meanings.get(event, "")) for event, levels in found)
    return table(("EVENT", "level", "meaning"), rows)


def metrics() -> str:
    """Every metric with its labels."""
    rows = (
        (f"`retrain_worker_{name}{'{' + ', '.join(labels) + '}' if labels else ''}`", text)
        for name, (text, labels) in METRICS.items()
    )
    return table(("metric", "meaning"), rows)


def payloads() -> str:
    """The fields of the payload of each event; a required one is bold."""
    documents = schemas()
    rows = []
    for event in PAYLOADS:
        document = documents[f"{event}.json"]
        kind = document["$defs"][document["$ref"].rpartition("/")[2]]
        fields = (f"**{name}**" if name in kind["required"] else name for name in kind["properties"])
        rows.append((f"[{event}](../events/{event}.json)", ", ".join(fields)))
    return table(("payload of", "fields; bold: always present"), rows)


def decisions() -> str:
    """The decision records."""
    pages = sorted((ROOT / "docs/decisions").glob("0*.md"))
    titles = (page.read_text().partition("\n")[0].lstrip("# ") for page in pages)
    return "".join(f"* [{title}]({page.name})\n" for page, title in zip(pages, titles, strict=True))


SECTIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "gates"): readme_gates,
    ("docs/reference/gates.md", "gates"): gates,
    ("docs/reference/settings.md", "settings"): all_settings,
    ("docs/reference/settings.md", "former names"): former_names,
    ("docs/reference/command-line.md", "exit codes"): exit_codes,
    ("docs/reference/command-line.md", "verbs"): verbs,
    ("docs/reference/log-events.md", "log events"): log_events,
    ("docs/reference/metrics.md", "metrics"): metrics,
    ("docs/reference/events.md", "payloads"): payloads,
    ("docs/decisions/index.md", "decisions"): decisions,
}


def pattern(name: str) -> re.Pattern[str]:
    """What is between the two marks of a section."""
    return re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)


if __name__ == "__main__":
    for (path, name), section in SECTIONS.items():
        page = ROOT / path
        before, after = pattern(name).split(page.read_text())
        page.write_text(before + section() + after)
