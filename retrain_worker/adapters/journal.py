"""The log: one entry of the journal per record where there is a journal, else one line on stderr, JSON or text.

A record is an `event` (a name in snake_case; docs/reference/log-events.md lists them), a `message` and fields. A JSON
line starts with `<N>`, which systemd takes as the priority (sd-daemon(3)). No record holds a password, has more than
one line, or blocks the daemon.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson
import structlog

from retrain_worker.adapters import journal_entry
from retrain_worker.adapters.journal_stream import is_journal
from retrain_worker.adapters.nonblocking_writer import LineWriter
from retrain_worker.domain.masking import masked
from retrain_worker.errors import RetrainError

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
#: the journal cuts lines at 48 KiB
_LINE_BYTES = 40_000
_FIELD_CHARACTERS = 4_000
_FLUSH_SECONDS = 2.0

Record = MutableMapping[str, Any]


class Journal:
    """The configured log of this process."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def flush(self, timeout_seconds: float = _FLUSH_SECONDS) -> bool:
        """Wait until the records are written, at most that long. To be called at the very end of the process."""
        return self._writer.flush(timeout_seconds)


def configure(*, level: str = "INFO", form: str = "auto", stream: TextIO | None = None) -> Journal:
    """Send every log record of this process, those of libraries, too, to stderr.

    `form`: json, text, or auto (entries of the journal when stderr leads there; else json, unless it is a terminal).
    """
    stream = stream or sys.stderr
    fd = stream.fileno()
    render = _as_text_line if form == "text" or (form == "auto" and stream.isatty()) else _as_json_line
    if form == "auto" and is_journal(fd) and (journal_fd := journal_entry.connected()) is not None:
        fd, render = journal_fd, _as_journal_entry
    writer = LineWriter(fd, about_dropped=lambda num_dropped: render(None, "warning", _about_dropped(num_dropped)))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_named_exception,
            _without_secrets,
            render,
        ],
        logger_factory=lambda *_: _LineLogger(writer),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryHandler()], force=True)
    logging.captureWarnings(True)
    set_level(level)
    return Journal(writer)


def set_level(level: str) -> None:
    """From now on drop records below `level`; those of libraries below warning are always dropped."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(**{**structlog.get_config(), "wrapper_class": structlog.make_filtering_bound_logger(threshold)})
    logging.root.setLevel(max(threshold, logging.WARNING))


def get_logger(**fields: Any) -> structlog.typing.FilteringBoundLogger:
    """A logger whose records carry `fields`: `log.info("stage_done", message="...", run_id=...)`."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(**fields)
    return bound


def _about_dropped(num_dropped: int) -> Record:
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "level": "warning",
        "event": "records_lost",
        "message": f"{num_dropped} log records were dropped: the log was not read in time",
    }


class _LineLogger:
    """The end of the processor chain: gets rendered lines."""

    def __init__(self, writer: LineWriter) -> None:
        self._put = writer.put

    def msg(self, line: bytes) -> None:
        self._put(line)

    debug = info = warning = error = critical = msg


class _LibraryHandler(logging.Handler):
    """Log records of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_logger(library=record.name).log(
                record.levelno, "library_message", message=record.getMessage(), exc_info=record.exc_info or None
            )
        except Exception:
            self.handleError(record)


def _with_named_exception(_: Any, __: str, record: Record) -> Record:
    """`exc_info` as fields: the message of a RetrainError; message, place and stack of any other exception."""
    found = record.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if not isinstance(error, BaseException):
        return record
    record["error_type"] = type(error).__name__
    if isinstance(error, RetrainError):
        record["error"] = str(error)
    else:
        record["error"] = _with_place(error)
        record["stack"] = "".join(traceback.format_exception(error))[-_FIELD_CHARACTERS:]
    return record


def _with_place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    text = str(error) or type(error).__name__
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else text


def _without_secrets(_: Any, __: str, record: Record) -> Record:
    return {name: _safe(value) for name, value in record.items()}


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)[:_FIELD_CHARACTERS]
    if isinstance(value, Mapping):
        return {str(name): _safe(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else _safe(str(value))


def _as_journal_entry(_: Any, method: str, record: Record) -> bytes:
    priority = _PRIORITIES.get(method, 6)
    entry = journal_entry.entry_of(record, priority=priority)
    if len(entry) > _LINE_BYTES:
        entry = journal_entry.entry_of({**_kept(record), "left_out_bytes": len(entry)}, priority=priority)
    return entry


def _kept(record: Record) -> Record:
    """What is kept of a record that is too long."""
    return {name: record[name] for name in ("event", "message", "level", "timestamp", "run_id") if name in record}


def _as_json_line(_: Any, method: str, record: Record) -> bytes:
    line = orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS)
    if len(line) > _LINE_BYTES:
        line = orjson.dumps({**_kept(record), "left_out_bytes": len(line)})
    return b"<%d>%s\n" % (_PRIORITIES.get(method, 6), line)


def _as_text_line(_: Any, method: str, record: Record) -> bytes:
    at, event, message = (record.pop(name, "") for name in ("timestamp", "event", "message"))
    for name in ("level", "stack"):
        record.pop(name, None)
    fields = " ".join(f"{name}={value}" for name, value in record.items())
    text = f"{at:.19} {method:<8} {message or event} {fields}"
    return " ".join(text.split()).encode(errors="replace")[:_LINE_BYTES] + b"\n"
