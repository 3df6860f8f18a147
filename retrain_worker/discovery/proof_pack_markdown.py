"""The proof pack as Markdown: eleven sections, from the storage of the host to what can train PatchTST."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from retrain_worker.discovery.markdown_syntax import (
    NOTHING,
    bullets,
    code,
    count,
    few,
    instant,
    pairs,
    plain,
    shares,
    size_of,
    table,
)
from retrain_worker.discovery.proof_pack import Database, FileFacts, ProofPack, Role, Source
from retrain_worker.domain.audit_findings import Finding, Severity

Section = Callable[[ProofPack], Iterator[str]]
_SECTIONS: list[tuple[str, Section]] = []


def markdown(pack: ProofPack) -> str:
    """The whole document."""
    borders = " (one file system each)" if pack.walk.is_one_file_system else ""
    lines = [
        f"# Training data discovery: proof pack of {code(pack.host.name)}",
        "",
        f"**Date**: {instant(pack.made_at)}  ",
        f"**Searched**: {', '.join(map(code, pack.walk.roots))}{borders}, {pack.walk.num_files:,} files  ",
        f"**Status**: **{verdict(pack)}**",
        *(f"- {plain(reason)}" for reason in pack.reasons),
    ]
    for number, (title, section) in enumerate(_SECTIONS, start=1):
        lines += ["", "---", "", f"## {number}. {title}", "", *section(pack)]
    return "\n".join(lines) + "\n"


def verdict(pack: ProofPack) -> str:
    """READY, NOT READY or INCOMPLETE."""
    return "INCOMPLETE" if pack.interrupted else "READY" if pack.is_ready else "NOT READY"


def _section(title: str) -> Callable[[Section], Section]:
    def register(section: Section) -> Section:
        _SECTIONS.append((title, section))
        return section

    return register


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
    walk = pack.walk
    yield from bullets("Not readable on this host", pack.host.gaps)
    yield from bullets("Not entered", walk.not_entered)
    yield from bullets(
        "Symbolic links out of the searched directories, not followed", walk.links_out, walk.num_links_out
    )
    yield from bullets("Unreadable files and directories", walk.unreadable, walk.num_unreadable)
    yield from bullets("Found, but not listed", [f"{kind}: {number:,} more" for kind, number in walk.left_out.items()])


@_section("Data discovery results")
def _results(pack: ProofPack) -> Iterator[str]:
    yield "### A) Primary training database (SQLite)"
    source = next((each for each in pack.databases if each.role is Role.SOURCE), None)
    yield from _database(source) if source else ("", "**None**: no database with rows in `ai_training_samples`.")
    tables = [each for each in pack.csv_files if not each.is_candles]
    candles = [each for each in pack.csv_files if each.is_candles]
    yield from ("", "### B) CSV data")
    yield from _files(
        "Rows|Columns|From|To|Notes",
        [
            (t.file, count(t.rows), few(t.columns), instant(t.first_at), instant(t.last_at), _note(t.file))
            for t in tables
        ],
    )
    yield from ("", "### C) Market data (candles)")
    yield from _files(
        "Rows|From|To|Notes",
        [(c.file, count(c.rows), instant(c.first_at), instant(c.last_at), _note(c.file)) for c in candles],
    )
    yield from ("", "### D) Model files")
    models = [(m.file, instant(m.file.modified_at), code(m.what), _note(m.file)) for m in pack.models]
    yield from _files("Modified|What|Notes", models)
    yield from ("", "### E) Redis persistence")
    yield from _files("Modified|What", [(r.file, instant(r.file.modified_at), r.what) for r in pack.redis_files])
    yield from _live_redis(pack)
    yield from ("", "### F) Observations (JSON lines)")
    yield from _files(
        "Lines|Keys|From|To",
        [(o.file, count(o.lines), few(o.keys), instant(o.first_at), instant(o.last_at)) for o in pack.observations],
    )
    yield from ("", "### G) Services of the stack")
    yield from table(
        "Service|State|Env files",
        (
            (code(each.file.path), each.state or "unknown", " ".join(map(code, each.environment_files)))
            for each in pack.units
        ),
    )


@_section("Schema of ai_training_samples")
def _schema(pack: ProofPack) -> Iterator[str]:
    if (source := pack.source) is None:
        yield NOTHING
        return
    wrong = sum(bool(column.finding) for column in source.columns)
    finding = f"**{wrong} not as expected**" if wrong else "all as expected"
    yield f"{code(source.path)}, {source.rows:,} rows, {len(source.columns)} columns, {finding}"
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
    yield from ("", "Feature names: " + ("; ".join(map(code, source.feature_names)) or "none"))
    yield from ("", "### Audit")
    if (quality := pack.quality) is None or quality.problem:
        yield f"\nNot audited: {plain(quality.problem) if quality else 'the search ended before the audit'}"
        return
    yield from table(
        "Result|Measurement|Finding",
        ((str(each.severity), code(each.name), plain(_with_examples(each))) for each in quality.findings),
        most=100,
    )
    quarantined = [f"{reason}: {number:,}" for reason, number in quality.quarantined.items() if number]
    yield from bullets("Quarantined rows", quarantined)


@_section("Sample row (masked)")
def _sample(pack: ProofPack) -> Iterator[str]:
    if pack.source is None or not pack.source.sample:
        yield NOTHING
        return
    yield from pairs("Column|Value", dict(pack.source.sample))
    if pack.source.sample_note:
        yield f"\n**Note**: {plain(pack.source.sample_note)}"


@_section("Related data assets")
def _related(pack: ProofPack) -> Iterator[str]:
    others = [each for each in pack.databases if each.role is not Role.SOURCE]
    yield from _files(
        "Modified|Role|Reason|Tables with rows|Notes",
        [
            (
                each.file,
                instant(each.file.modified_at),
                str(each.role),
                plain(each.why),
                few([f"{one.name} {count(one.rows)}" for one in each.tables if one.rows or one.rows is None]),
                _note(each.file),
            )
            for each in others
        ],
    )


@_section("Service data paths")
def _services(pack: ProofPack) -> Iterator[str]:
    for unit in pack.units:
        yield f"### {code(unit.file.path)}"
        settings = {
            "User": unit.user,
            "WorkingDirectory": unit.working_directory,
            "ExecStart": unit.exec_start,
            "EnvironmentFile": " ".join(unit.environment_files),
            **unit.environment,
        }
        yield from pairs("Setting|Value", {name: value for name, value in settings.items() if value})
        yield ""
    for env in pack.env_files:
        yield f"### {code(env.file.path)}"
        yield from pairs("Name|Value", env.values)
        if env.other_names:
            yield f"\nnot shown: {few(env.other_names)}"
        if env.finding:
            yield f"\n**Finding**: {plain(env.finding)}"
        yield ""
    yield "### Database paths in use"
    yield from table(
        "Where|Name|Path|Finding|Wrong",
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
    yield from bullets("Reasons", pack.reasons)
    wrong = [
        f"{each.where} names {each.path} in {each.name}: {each.finding}" for each in pack.configured if each.is_wrong
    ]
    yield from bullets("Required changes: settings that name a wrong or missing database", wrong)
    findings = pack.quality.findings if pack.quality else ()
    warnings = [f"{each.name}: {each.message}" for each in findings if each.severity is not Severity.OK]
    yield from bullets("Data quality issues", warnings)


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
        "Dataset|Type|Purpose|Suitable for PatchTST|Reason",
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
        f"**Reason**: {plain(database.why)}",
    )
    yield from table("Table|Rows", ((code(each.name), count(each.rows)) for each in database.tables))
    if database.file.links:
        yield f"\nLinks to it: {few(database.file.links)}"


def _live_redis(pack: ProofPack) -> Iterator[str]:
    if pack.redis is None:
        yield "\nLive Redis: not configured, or not read."
    elif pack.redis.problem:
        yield f"\nLive Redis: {plain(pack.redis.problem)}"
    else:
        yield f"\nLive Redis at {code(pack.redis.where)}:"
        yield from pairs("Setting|Value", pack.redis.settings)


def _files(header: str, rows: Iterable[tuple[FileFacts, *tuple[str, ...]]]) -> Iterator[str]:
    """A table of files, each with its size and further cells."""
    yield from table(f"File|Size|{header}", ((code(f.path), size_of(f.size_bytes), *cells) for f, *cells in rows))


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
