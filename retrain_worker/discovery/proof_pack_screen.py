"""The proof pack on one screen: the verdict, the databases, wrong paths, the other files as numbers."""

from __future__ import annotations

from collections.abc import Iterator

from retrain_worker.discovery.markdown_syntax import size_of
from retrain_worker.discovery.proof_pack import ProofPack, Role, Source
from retrain_worker.discovery.proof_pack_markdown import verdict
from retrain_worker.domain.audit_findings import Severity

_MAX_LINES = 12


def screen(pack: ProofPack) -> str:
    """Plain text for a terminal."""
    return "\n".join(f"{name:<12}{text}".rstrip() for name, text in _lines(pack))


def _lines(pack: ProofPack) -> Iterator[tuple[str, str]]:
    yield "verdict", verdict(pack)
    yield from (("", reason) for reason in pack.reasons)
    if pack.source:
        yield from _source(pack.source)
    findings = pack.quality.findings if pack.quality else ()
    warnings = [each for each in findings if each.severity is Severity.WARNING]
    yield from (("warning", f"{each.name}: {each.message}") for each in warnings[:_MAX_LINES])
    yield "", ""
    yield from _databases(pack)
    wrong = [each for each in pack.configured if each.is_wrong]
    yield from (("WRONG PATH", f"{each.where}: {each.name}={each.path}: {each.finding}") for each in wrong[:_MAX_LINES])
    yield from _more(len(wrong))
    yield from _other_files(pack)
    yield "", ""
    yield from zip(("next", *("" for _ in pack.next_commands)), pack.next_commands, strict=False)


def _source(source: Source) -> Iterator[tuple[str, str]]:
    yield "source", source.path
    classes = ", ".join(f"{name} {count:,}" for name, count in source.classes.items())
    yield "", f"{source.rows:,} rows ({classes}), {source.num_symbols} symbols"
    yield "", f"{source.first_at} to {source.last_at}"
    wrong = [f"{column.name}: {column.finding}" for column in source.columns if column.finding]
    yield "", f"{len(source.columns)} columns{': ' + '; '.join(wrong) if wrong else ', all as expected'}"
    yield "", "features: " + ", ".join(f"{form} ({count:,} rows)" for form, count in source.features.items())
    if source.sample_note:
        yield "", f"row {dict(source.sample).get('id', '?')}: {source.sample_note}"


def _databases(pack: ProofPack) -> Iterator[tuple[str, str]]:
    yield "databases", f"{len(pack.databases)} found"
    others = [each for each in pack.databases if each.role is not Role.SOURCE]
    for each in others[:_MAX_LINES]:
        yield "", f"{each.role:<10} {size_of(each.file.size_bytes):>8}  {each.file.path}: {each.why}"
    yield from _more(len(others))


def _other_files(pack: ProofPack) -> Iterator[tuple[str, str]]:
    candles = sum(each.is_candles for each in pack.csv_files)
    numbers = {
        "candle files": candles,
        "other CSV files": len(pack.csv_files) - candles,
        "models": len(pack.models),
        "observations": len(pack.observations),
        "Redis files": len(pack.redis_files),
        "env files": len(pack.env_files),
        "services": len(pack.units),
    }
    yield "other files", ", ".join(f"{what} {number}" for what, number in numbers.items() if number) or "none"
    if pack.redis:
        settings = " ".join(f"{name}={pack.redis.settings.get(name, '?')}" for name in ("save", "appendonly"))
        yield "redis", pack.redis.problem or f"{pack.redis.where} {settings}"
    walk = pack.walk
    yield "searched", f"{walk.num_files:,} files in {walk.num_directories:,} directories"
    for number, what, examples in (
        (walk.num_unreadable, "unreadable", walk.unreadable),
        (walk.num_links_out, "links out", walk.links_out),
        (len(walk.not_entered), "not entered", walk.not_entered),
    ):
        if number:
            yield "", f"{what} {number}: {'; '.join(examples[:3])}{' ...' if number > 3 else ''}"


def _more(number: int) -> Iterator[tuple[str, str]]:
    if number > _MAX_LINES:
        yield "", f"and {number - _MAX_LINES} more"
