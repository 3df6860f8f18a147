"""The proof pack as Markdown, in the order of the document that began it: sections 1 to 11."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from retrain_worker.discovery.markup import NOTHING, bullets, code, count, few, instant, plain, shares, size_of, table
from retrain_worker.discovery.pack import Database, FileFacts, ProofPack, Role, Source
from retrain_worker.domain.audit_findings import Finding, Severity

_SECTIONS: list[tuple[str, Callable[[ProofPack], Iterator[str]]]] = []


def markdown(pack: ProofPack) -> str:
    """The whole document."""
    lines = [
        f"# Training data discovery: proof pack of {code(pack.host.name)}",
        "",
        f"**Date**: {instant(pack.made_at)}  ",
        f"**Looked through**: {', '.join(code(root) for root in pack.walk.roots)}"
        f"{' (one file system each)' if pack.walk.is_one_file_system else ''}, {pack.walk.num_files:,} files  ",
        f"**Status**: **{verdict(pack)}**",
    ]
    lines += [f"- {plain(reason)}" for reason in pack.reasons]
    for number, (title, section) in enumerate(_SECTIONS, start=1):
        lines += ["", "---", "", f"## {number}. {title}", "", *section(pack)]
    return "\n".join(lines) + "\n"


def verdict(pack: ProofPack) -> str:
    """READY or NOT READY."""
    return "READY" if pack.is_ready else "NOT READY"


def _section(title: str) -> Callable[[Callable[[ProofPack], Iterator[str]]], Callable[[ProofPack], Iterator[str]]]:
    def keep(section: Callable[[ProofPack], Iterator[str]]) -> Callable[[ProofPack], Iterator[str]]:
        _SECTIONS.append((title, section))
        return section

    return keep


@_section("Storage overview")
def _storage(pack: ProofPack) -> Iterator[str]:
    yield "### Disk usage"
    yield from table(
        "File system|Type|Size|Used|Avail|Use|Mounted on",
        (
            (
                code(each.device),
                each.kind,
                size_of(each.size),
                size_of(each.used),
                size_of(each.available),
                f"{each.used / max(each.used + each.available, 1):.0%}",
                code(each.mount_point),
            )
            for each in pack.host.file_systems
        ),
    )
    yield from ("", "### Block devices")
    yield from table(
        "Device|Part of|Size|File system|Mounted on",
        (
            (code(each.name), code(each.parent), size_of(each.size), each.kind, " ".join(map(code, each.mount_points)))
            for each in pack.host.block_devices
        ),
    )
    yield from bullets("Could not be read", pack.host.gaps)
    yield from bullets("Not entered", pack.walk.not_entered)
    yield from bullets("Links that lead out of the roots, not followed", pack.walk.links_out, pack.walk.num_links_out)
    yield from bullets("Unreadable", pack.walk.unreadable, pack.walk.num_unreadable)
    left_out = [f"{kind}: {number:,} more" for kind, number in pack.walk.left_out.items()]
    yield from bullets("More than can be listed", left_out)


@_section("Data discovery results")
def _results(pack: ProofPack) -> Iterator[str]:
    yield "### A) Primary training database (SQLite)"
    source = next((each for each in pack.databases if each.role is Role.SOURCE), None)
    yield from _database(source) if source else ("", "**None**: no database with rows in `ai_training_samples`.")
    yield from ("", "### B) CSV data")
    yield from table(
        "File|Size|Rows|Columns|From|To|Notes",
        (
            (
                code(each.file.path),
                size_of(each.file.size_bytes),
                count(each.rows),
                few(each.columns),
                instant(each.first_at),
                instant(each.last_at),
                _note(each.file),
            )
            for each in pack.csv_files
            if not each.is_candles
        ),
    )
    yield from ("", "### C) Market data (candles)")
    yield from table(
        "File|Size|Rows|From|To|Notes",
        (
            (
                code(each.file.path),
                size_of(each.file.size_bytes),
                count(each.rows),
                instant(each.first_at),
                instant(each.last_at),
                _note(each.file),
            )
            for each in pack.csv_files
            if each.is_candles
        ),
    )
    yield from ("", "### D) Model files")
    yield from table(
        "File|Size|Modified|What|Notes",
        (
            (
                code(each.file.path),
                size_of(each.file.size_bytes),
                instant(each.file.modified_at),
                code(each.what),
                _note(each.file),
            )
            for each in pack.models
        ),
    )
    yield from ("", "### E) Redis persistence")
    yield from table(
        "File|Size|Modified|What",
        (
            (code(each.file.path), size_of(each.file.size_bytes), instant(each.file.modified_at), each.what)
            for each in pack.redis_files
        ),
    )
    yield from _live_redis(pack)
    yield from ("", "### F) Observations (JSON lines)")
    yield from table(
        "File|Size|Lines|Keys|From|To",
        (
            (
                code(each.file.path),
                size_of(each.file.size_bytes),
                count(each.lines),
                few(each.keys),
                instant(each.first_at),
                instant(each.last_at),
            )
            for each in pack.observations
        ),
    )
    yield from ("", "### G) Services of the stack")
    yield from table(
        "Service|State|Reads",
        (
            (code(each.file.path), each.state or "not asked", " ".join(map(code, each.environment_files)))
            for each in pack.units
        ),
    )


@_section("Schema of ai_training_samples")
def _schema(pack: ProofPack) -> Iterator[str]:
    if (source := pack.source) is None:
        yield NOTHING
        return
    wrong = sum(bool(column.finding) for column in source.columns)
    yield f"{code(source.path)}, {source.rows:,} rows, {len(source.columns)} columns, " + (
        f"**{wrong} not as expected**" if wrong else "all as expected"
    )
    yield from table(
        "Column|Type|Nullable|Description|Finding",
        (
            (
                code(each.name),
                code(each.kind),
                "NULL" if each.is_nullable else "NOT NULL",
                each.description,
                each.finding,
            )
            for each in source.columns
        ),
        most=100,
    )


@_section("Data quality analysis")
def _quality(pack: ProofPack) -> Iterator[str]:
    if (source := pack.source) is None:
        yield NOTHING
        return
    yield "### Distribution"
    yield from shares("Target class", source.classes, source.rows)
    yield from ("", "### Date range", "", f"{code(source.first_at)} to {code(source.last_at)}{_days(source)}")
    yield from ("", "### Symbol coverage")
    yield from shares("Symbol", source.symbols, source.rows)
    if source.num_symbols > len(source.symbols):
        yield f"\n{source.num_symbols:,} symbols in all."
    yield from ("", "### Feature completeness and width")
    yield from shares("Features", source.features, source.rows)
    yield from ("", "Feature names: " + ("; ".join(code(name) for name in source.feature_names) or "none"))
    yield from ("", "### Audit")
    if (quality := pack.quality) is None or quality.problem:
        yield f"\nNot measured: {plain(quality.problem) if quality else 'the source could not be described'}"
        return
    yield from table(
        "Result|Measurement|What was found",
        ((str(each.severity), code(each.name), plain(_with_examples(each))) for each in quality.findings),
        most=100,
    )
    left_out = [f"{reason}: {number:,}" for reason, number in quality.quarantined.items() if number]
    yield from bullets("Rows left out", left_out)


@_section("Sample row (masked)")
def _sample(pack: ProofPack) -> Iterator[str]:
    if pack.source is None or not pack.source.sample:
        yield NOTHING
        return
    yield from table("Column|Value", ((code(name), code(value)) for name, value in pack.source.sample))
    if pack.source.sample_note:
        yield f"\n**Note**: {plain(pack.source.sample_note)}"


@_section("Related data assets")
def _related(pack: ProofPack) -> Iterator[str]:
    yield from table(
        "Database|Size|Modified|Role|Why|Tables with rows",
        (
            (
                code(each.file.path),
                size_of(each.file.size_bytes),
                instant(each.file.modified_at),
                str(each.role),
                plain(each.why) + (f" ({_note(each.file)})" if _note(each.file) else ""),
                few([f"{one.name} {count(one.rows)}" for one in each.tables if one.rows or one.rows is None]),
            )
            for each in pack.databases
            if each.role is not Role.SOURCE
        ),
    )


@_section("Service data paths")
def _services(pack: ProofPack) -> Iterator[str]:
    for unit in pack.units:
        yield f"### {code(unit.file.path)}"
        yield from table(
            "Setting|Value",
            (
                pair
                for pair in (
                    ("User", code(unit.user)),
                    ("Working directory", code(unit.working_directory)),
                    ("Command", code(unit.exec_start)),
                    ("Environment file", " ".join(map(code, unit.environment_files))),
                    *((code(name), code(value)) for name, value in unit.environment.items()),
                )
                if pair[1]
            ),
        )
        yield ""
    for env in pack.env_files:
        yield f"### {code(env.file.path)}"
        yield from table("Name|Value", ((code(name), code(value) or "(empty)") for name, value in env.values.items()))
        if env.other_names:
            yield f"\nnot shown: {few(env.other_names)}"
        if env.finding:
            yield f"\n**Finding**: {plain(env.finding)}"
        yield ""
    yield "### Database paths in use"
    yield from table(
        "Where|Name|Path|What is there|Right",
        (
            (code(each.where), code(each.name), code(each.path), plain(each.finding), "WRONG" if each.is_wrong else "")
            for each in pack.configured
        ),
    )


@_section("Conclusion and recommendations")
def _conclusion(pack: ProofPack) -> Iterator[str]:
    if (source := pack.source) is not None:
        shared = ((name, number / max(source.rows, 1)) for name, number in source.classes.items())
        classes = ", ".join(f"{share:.0%} {plain(name)}" for name, share in shared)
        yield from table(
            "Primary data source|",
            (
                ("Database", code(source.path)),
                ("Table", code("ai_training_samples")),
                ("Rows", f"{source.rows:,} ({classes})"),
                ("Symbols", f"{source.num_symbols:,}"),
                ("Date", f"{code(source.first_at)} to {code(source.last_at)}"),
                ("Status", f"**{verdict(pack)}**"),
            ),
        )
    yield from bullets("Why not", pack.reasons)
    wrong = [
        f"{each.where} names {each.path} in {each.name}: {each.finding}" for each in pack.configured if each.is_wrong
    ]
    yield from bullets("Required changes: these point to a wrong database", wrong)
    warned = [
        f"{each.name}: {each.message}"
        for each in (pack.quality.findings if pack.quality else ())
        if each.severity is not Severity.OK
    ]
    yield from bullets("Data quality issues", warned)


@_section("Next steps")
def _next_steps(pack: ProofPack) -> Iterator[str]:
    yield from ("```bash", *pack.next_commands, "```")


@_section("Proof summary")
def _summary(pack: ProofPack) -> Iterator[str]:
    for role in Role:
        if paths := [each.file.path for each in pack.databases if each.role is role]:
            yield f"- databases, {role}: {len(paths)}: {few(paths)}"
    for name, files in (
        ("CSV files", pack.csv_files),
        ("model files", pack.models),
        ("Redis files", pack.redis_files),
        ("files of observations", pack.observations),
        ("env files", pack.env_files),
        ("services", pack.units),
    ):
        yield f"- {name}: {len(files)}"
    yield f"- {verdict(pack)}"


@_section("Which of this can train PatchTST")
def _suitability(pack: ProofPack) -> Iterator[str]:
    yield from table(
        "Dataset|Type|Purpose|Suitable for PatchTST|Why",
        (
            (code(each.dataset), each.kind, each.purpose, "**YES**" if each.is_suitable else "NO", each.why)
            for each in pack.suitability
        ),
    )


def _database(database: Database) -> Iterator[str]:
    yield from (
        "",
        f"**Location**: {code(database.file.path)}  ",
        f"**Size**: {size_of(database.file.size_bytes)}, modified {instant(database.file.modified_at)}  ",
        f"**Why this one**: {plain(database.why)}",
    )
    yield from table(
        "Table|Rows|",
        (
            (
                code(each.name),
                count(each.rows),
                "primary data source" if each.name == "ai_training_samples" else "" if each.rows != 0 else "empty",
            )
            for each in database.tables
        ),
    )
    if database.file.links:
        yield f"\nLinks to it: {few(database.file.links)}"


def _live_redis(pack: ProofPack) -> Iterator[str]:
    if pack.redis is None:
        yield "\nLive Redis: none is named."
    elif pack.redis.problem:
        yield f"\nLive Redis: {plain(pack.redis.problem)}"
    else:
        yield f"\nLive Redis at {code(pack.redis.where)}:"
        yield from table("Setting|Value", ((code(name), code(value)) for name, value in pack.redis.settings.items()))


def _with_examples(finding: Finding) -> str:
    examples = finding.examples if finding.severity is not Severity.OK else ()
    return "; ".join((finding.message, *examples))


def _note(file: FileFacts) -> str:
    notes = [f"same bytes as {code(file.same_as)}"] if file.same_as else []
    return "; ".join([*notes, *(f"link {code(link)}" for link in file.links[:2])])


def _days(source: Source) -> str:
    try:
        span = datetime.fromisoformat(source.last_at) - datetime.fromisoformat(source.first_at)
    except (ValueError, TypeError):
        return ""
    return f" ({span.days} days)"
