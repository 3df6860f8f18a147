"""The boundaries: what each decodes, and the only errors that it may raise, in bounded time and memory."""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from retrain_worker import cli, settings, typed_json
from retrain_worker.adapters import stored_json
from retrain_worker.adapters.retrain_requests import _request_in
from retrain_worker.adapters.trade_intents import _answer_in
from retrain_worker.cli.screen import as_json
from retrain_worker.domain import env_file
from retrain_worker.domain.acknowledgement import acknowledgement_in
from retrain_worker.domain.artifact import Manifest
from retrain_worker.domain.engine_answers import Tally
from retrain_worker.domain.envelope import received
from retrain_worker.domain.events import SERVED_STREAM
from retrain_worker.errors import ArtifactError, MalformedError, RetrainError, SettingsError, SlotError
from retrain_worker.model.checksum import stored_checksum
from retrain_worker.report.event_line import event_line
from retrain_worker.serving.slot_entry import SlotEntries
from tests.fuzz import inputs

MAX_SECONDS = 5.0
MAX_BYTES = 200_000_000
_AT = "2026-01-10T03:30:00+00:00"
_SHA256 = "a" * 64
_TYPES = ("model.promoted", "model.rolled_back", "learning.retraining.failed", "model.served", "model.retrain")
_ENTRY = {
    "event_type": "model.promoted",
    "event_id": "e",
    "correlation_id": "r",
    "timestamp": _AT,
    "schema_version": "1",
}
_PROMOTED = {"new_version": "v2", "old_version": "v1", "auc": 0.7, "reasons": ["a"], "run_id": "r", "shadow_only": True}
_REQUEST = {"reason": "new data", "requested_by": "ops", "model": "patchtst", "force": True}
_ANSWER = {"action": "BUY", "confidence": 0.7, "shadow": True, "version": "v"}
_INTENT = {"symbol": "BTCUSDT", "side": "BUY", "timestamp": _AT, "model_breakdown": {"patchtst": _ANSWER}}
_SERVED = {"version": "v", "sha256": _SHA256, "consumer": "engine-1", "canary_max_error": 1e-7, "served_at": _AT}
_HASH = {
    "version": "v",
    "model_path": "/opt/quantum/ai_engine/models/v.pth",
    "sha256": _SHA256,
    "size_bytes": "9",
    "run_id": "r",
    "promoted_at": _AT,
    "event_id": "e",
    "shadow_only": "true",
    "confirmed": "true",
}
_MANIFEST = {
    "format": "patchtst/1.1",
    "version": "v",
    "created_at": _AT,
    "file": "v.pth",
    "sha256": _SHA256,
    "size_bytes": 9,
    "contract": {"preset": "paper", "context_length": 64, "feature_names": ["rsi"], "input_transform": "instance"},
    "config": {"d_model": 16},
    "thresholds": {"buy": 0.6, "sell": 0.4},
}
_FACTS = {"unreadable": {}, "pull": {"rows": {"loaded": 1}}, "gate": {"verdict": {}}, "train": {"version": "v"}}
_ENV = (
    b"# engine\nPATCHTST_MODEL_PATH=\"/opt/quantum/ai_engine/models/v.pth\"\nPATCHTST_SHADOW_ONLY=true\nOTHER='x y'\n"
)


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """`decode` gets what `make` makes; it may raise `errors` only."""

    name: str
    #: inputs of a full test
    inputs: int
    make: Callable[[Random], Any]
    decode: Callable[[Any], object]
    errors: tuple[type[BaseException], ...] = (MalformedError,)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of the inputs of a boundary."""

    inputs: int
    refused: int
    slowest_seconds: float
    seconds: float
    grown_bytes: int


class NotTypedError(AssertionError):
    """An input that raises something else, or takes too long."""


def run_fuzz(boundary: Boundary, *, num_inputs: int, seed: int) -> Result:
    """Decode `num_inputs` inputs. Raises NotTypedError with the input that is not refused as it should be."""
    random, refused, slowest = Random(f"{boundary.name} {seed}"), 0, 0.0
    with contextlib.suppress(Exception):  # the first input, for what it imports; the loop decodes it again
        boundary.decode(boundary.make(Random(f"{boundary.name} {seed}")))
    before, began = _resident_bytes(), time.monotonic()
    for _ in range(num_inputs):
        given = boundary.make(random)
        started = time.perf_counter()
        try:
            boundary.decode(given)
        except boundary.errors as error:
            refused += 1
            if isinstance(error, MalformedError) and error.what.startswith("unexpected"):
                raise NotTypedError(f"{boundary.name}: {error.what}: {given!r:.2000}") from error
        except BaseException as error:
            raise NotTypedError(f"{boundary.name}: {type(error).__name__}: {error}: {given!r:.2000}") from error
        slowest = max(slowest, time.perf_counter() - started)
        if slowest > MAX_SECONDS:
            raise NotTypedError(f"{boundary.name}: {slowest:.1f} s: {given!r:.2000}")
    grown = _resident_bytes() - before
    if grown > MAX_BYTES:
        raise NotTypedError(f"{boundary.name}: memory has grown by {grown:,} bytes")
    return Result(
        inputs=num_inputs, refused=refused, slowest_seconds=slowest, seconds=time.monotonic() - began, grown_bytes=grown
    )


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---------------------------------------------------------------- Redis


def _entry(random: Random, payload: dict[str, Any], **flat: Any) -> dict[bytes, bytes]:
    fields = inputs.changed(random, {**_ENTRY, **flat})
    if random.random() < 0.9:
        fields["payload"] = inputs.as_json(random, inputs.changed(random, payload))
    return inputs.raw(random, fields)


def _stream_id(random: Random) -> str:
    return random.choice(("1768015800123-4", "0-1", f"{2**64 - 1}-{2**64 - 1}", f"{random.randrange(2**64)}-0"))


def _event(given: tuple[str, str, dict[bytes, bytes]]) -> None:
    event = received(*given)
    line = event_line(event)
    assert line.isprintable()
    assert as_json(event).isprintable()


def _with_types(random: Random) -> tuple[str, str, dict[bytes, bytes]]:
    kind = random.choice(
        ("model.promoted", "model.rolled_back", "learning.retraining.failed", "model.served", "model.retrain")
    )
    return "quantum:stream:" + kind, _stream_id(random), _entry(random, _PROMOTED | _REQUEST | _SERVED, event_type=kind)


def _request(given: tuple[str, dict[bytes, bytes]]) -> None:
    found = _request_in(*given, "")
    texts = (found,) if isinstance(found, str) else (found.reason, found.requested_by)
    assert all(text.isprintable() and len(text) <= 500 for text in texts)


def _intent(given: tuple[str, dict[bytes, bytes]]) -> None:
    tally = Tally().with_entry(_answer_in(*given))
    stored = stored_json.encode(tally)
    assert len(stored) < 50_000
    assert typed_json.decode(stored, Tally) == tally


def _served(given: dict[bytes, bytes]) -> None:
    found = acknowledgement_in(received(SERVED_STREAM, "1768015800123-4", given))
    found.confirms(version="v", sha256=_SHA256, consumers=("engine-*",))
    assert found.message.isprintable()
    assert len(found.message) < 1000


def _hash(given: dict[bytes, bytes]) -> None:
    entries = SlotEntries([Path("/opt/quantum/ai_engine/models")])
    named = entries.from_hash(given)
    if named.model_path:
        entries.verify(named)
        assert Path(named.model_path).parent == Path("/opt/quantum/ai_engine/models")


# ---------------------------------------------------------------- files


def _env_bytes(random: Random) -> bytes:
    return inputs.mutated(random, _ENV) if random.random() < 0.9 else inputs.text(random).encode(errors="surrogatepass")


def _env_file(content: bytes) -> None:
    env_file.parse(content)
    env_file.value_of(content, "PATCHTST_MODEL_PATH")
    changed = env_file.replaced(content, "PATCHTST_MODEL_PATH", "/m/x.pth")
    assert env_file.value_of(changed, "PATCHTST_MODEL_PATH") == "/m/x.pth"


def _checksum(content: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        model = Path(folder) / "v.pth"
        model.with_name("v.pth.sha256").write_bytes(content)
        assert (stored_checksum(model) or _SHA256).isalnum()


def _manifest(content: bytes) -> None:
    typed_json.decode(content, Manifest)


def _facts(content: str) -> None:
    stored_json.decode("facts", content)
    stored_json.decode("arguments", content)


# ---------------------------------------------------------------- settings, command line, table


def _environment(random: Random) -> dict[str, str]:
    names = list(settings.load({}, home=Path("/h"), db="/d").names)
    return {random.choice(names): inputs.text(random) for _ in range(random.randrange(6))}


def _settings(environment: dict[str, str]) -> None:
    settings.load(environment, home=None, db=None)


_WORDS = (
    *("once", "run", "status", "rollback", "events", "tail", "trigger", "redis-acl", "pause", "daemon"),
    *("--home", "--limit", "--json", "-n", "--help", "--db", "--wait", "--to-none", "--reason", "--role", "--for"),
)


def _arguments(random: Random) -> list[str]:
    return [random.choice((random.choice(_WORDS), inputs.text(random))) for _ in range(random.randrange(6))]


def _command_line(arguments: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        cli.parse(arguments)


def _cells(random: Random) -> tuple[Any, Any, Any]:
    features = random.choice(({"rsi": 50.0, "macd": 0.1}, [50.0, 0.1]))
    names = inputs.as_json(random, ["rsi", "macd"] if random.random() < 0.8 else inputs.value(random))
    changed = inputs.changed(random, features) if isinstance(features, dict) else [*features, inputs.value(random)]
    return inputs.as_json(random, changed), names, inputs.text(random)


def _cell(given: tuple[Any, Any, Any]) -> None:
    from retrain_worker.worker.data.feature_cells import decode_cell
    from retrain_worker.worker.data.instants import instant_of

    decode_cell(given[0], given[1], {})
    instant_of(given[2])


# ---------------------------------------------------------------- model files


def _model_files() -> Iterator[bytes]:
    """A model file of this program, and one of before torch 1.6."""
    import numpy as np
    import torch

    from retrain_worker.domain.artifact import ModelContract
    from retrain_worker.domain.recipe import InputTransform, Preset
    from retrain_worker.model import bundle, presets
    from retrain_worker.model.patchtst import PatchTST

    contract = ModelContract(
        preset=Preset.PAPER, context_length=32, feature_names=("rsi",), input_transform=InputTransform.INSTANCE
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patchtst_v20260110_033000.pth"
        windows = np.zeros((1, 32, 1), dtype=np.float32)
        model = PatchTST(presets.config_for(contract, dropout=0.0))
        bundle.write(path, model=model, contract=contract, canary_windows=windows, origin=bundle.Origin())
        yield path.read_bytes()
        old = io.BytesIO()
        torch.save({"model_state_dict": {"w": torch.zeros(3)}}, old, _use_new_zipfile_serialization=False)
        yield old.getvalue()


_files: list[bytes] = []


def _model_bytes(random: Random) -> bytes:
    if not _files:
        _files.extend(_model_files())
        _model(_files[0])  # the first prediction takes seconds
    return inputs.mutated(random, random.choice(_files))


def _model(content: bytes) -> None:
    from retrain_worker.model import bundle

    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "patchtst_v20260110_033000.pth"
        path.write_bytes(content)
        bundle.read(path, follow_links=False)


def _pair(random: Random, fields: dict[bytes, bytes]) -> tuple[str, dict[bytes, bytes]]:
    return _stream_id(random), fields


BOUNDARIES = (
    Boundary(name="entries of events", inputs=250_000, make=_with_types, decode=_event),
    Boundary(
        name="retrain requests",
        inputs=180_000,
        make=lambda random: _pair(random, _entry(random, _REQUEST, event_type="model.retrain")),
        decode=_request,
    ),
    Boundary(
        name="trade intents",
        inputs=150_000,
        make=lambda random: _pair(random, _entry(random, _INTENT, **random.choice((_INTENT, {})))),
        decode=_intent,
    ),
    Boundary(
        name="acknowledgements",
        inputs=100_000,
        make=lambda random: _entry(random, _SERVED, event_type="model.served"),
        decode=_served,
    ),
    Boundary(
        name="current-model hash",
        inputs=100_000,
        make=lambda random: inputs.raw(random, inputs.changed(random, _HASH)),
        decode=_hash,
        errors=(MalformedError, ArtifactError),
    ),
    Boundary(name="env file", inputs=70_000, make=_env_bytes, decode=_env_file, errors=(SlotError,)),
    Boundary(
        name="checksum file",
        inputs=20_000,
        make=lambda random: inputs.mutated(random, f"{_SHA256}  v.pth\n".encode()),
        decode=_checksum,
    ),
    Boundary(
        name="manifest",
        inputs=50_000,
        make=lambda random: inputs.as_json(random, inputs.changed(random, _MANIFEST)).encode(errors="surrogatepass"),
        decode=_manifest,
    ),
    Boundary(
        name="stored facts",
        inputs=50_000,
        make=lambda random: inputs.as_json(random, inputs.changed(random, _FACTS)),
        decode=_facts,
    ),
    Boundary(name="cells of the table", inputs=40_000, make=_cells, decode=_cell),
    Boundary(name="settings", inputs=5_000, make=_environment, decode=_settings, errors=(SettingsError,)),
    Boundary(name="command line", inputs=500, make=_arguments, decode=_command_line, errors=(SystemExit, RetrainError)),
    Boundary(name="model files", inputs=1_500, make=_model_bytes, decode=_model, errors=(ArtifactError,)),
)
