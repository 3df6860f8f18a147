"""`inspect`: what a model file contains, and whether it is valid. Nothing in it is executed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker import signing
from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.artifact import Manifest
from retrain_worker.domain.worker_protocol import UNNAMED, FileReport
from retrain_worker.errors import ArtifactError
from retrain_worker.signing import Verifier

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_TENSORS = 4
_CHECKSUMS = {
    "agrees": "equals its checksum file",
    "differs": "DIFFERS from its checksum file",
    "none": "no checksum file",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "exit: 0 every file is valid, 11 at least one is not, with the reason"
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="any file; it is never executed")
    parser.add_argument(
        "--public-key",
        action="append",
        default=[],
        metavar="KEY",
        help="verify the signature beside FILE with this key, too (default: MODEL_PUBLIC_KEYS); at most two",
    )
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print one report for each file. Raises SettingsError for a key that is none."""
    from rich.console import Group

    from retrain_worker.cli.progress import Activity
    from retrain_worker.cli.results import InspectedFile
    from retrain_worker.cli.screen import show
    from retrain_worker.daemon import one_off_task

    keys = arguments.public_key or os.environ.get("MODEL_PUBLIC_KEYS", "").replace(",", " ").split()
    verifier = Verifier(keys) if keys else None
    with Activity() as activity:
        activity.message(f"inspecting {len(arguments.files)} files")
        reports = one_off_task.inspect(tuple(arguments.files)).reports
    signatures = [_signature(path, report, verifier) for path, report in zip(arguments.files, reports, strict=True)]
    found = [
        InspectedFile(
            **{each.name: getattr(report, each.name) for each in fields(report)},
            signature=signature.text,
            is_signature_valid=signature.is_valid,
        )
        for report, signature in zip(reports, signatures, strict=True)
    ]
    show(arguments, found, lambda: Group(*list(chain.from_iterable(map(_as_text, reports, signatures)))[1:]))
    is_wrong = any(signature.is_valid is False for signature in signatures)
    return ExitCode.REFUSED if is_wrong or any(report.problem for report in reports) else ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class _Signature:
    text: str
    #: None: none, or no key to verify it with
    is_valid: bool | None = None


def _signature(path: Path, report: FileReport, verifier: Verifier | None) -> _Signature:
    """What is beside the file. With a key, a file without a signature is wrong."""
    try:
        if verifier is None:
            return _Signature(text="none" if signing.read(path) is None else "not verified: give --public-key")
        found = verifier.check_model(path, report.sha256)
    except ArtifactError as error:
        return _Signature(text=f"INVALID: {error.what}", is_valid=False)
    key_id, statement = found.signature.partition(":")[0], found.statement
    return _Signature(
        text=f"valid, by key {key_id}: promoted {statement['promoted_at']}, run {statement.get('run_id', '')}",
        is_valid=True,
    )


def _as_text(report: FileReport, signature: _Signature) -> Iterator[RenderableType]:
    from rich.text import Text

    from retrain_worker.cli.screen import pairs, paragraph

    signed = ("  signature", signature.text, "red" if signature.is_valid is False else "")
    verdict = (f"INVALID: {report.problem}", "red") if report.problem else ("valid", "green")
    yield Text()
    yield paragraph(report.path, "bold")
    yield pairs([*((f"  {name}", value, "") for name, value in _facts(report)), signed, ("  verdict", *verdict)])


def _facts(report: FileReport) -> Iterator[tuple[str, str]]:
    yield "is", report.kind
    if report.size_bytes is not None:
        yield "file", f"{report.size_bytes:,} bytes, sha256 {report.sha256}, {_CHECKSUMS[report.checksum]}"
    if report.refused_globals:
        yield "refused", f"objects of {', '.join(report.refused_globals)}"
    if report.manifest is not None:
        yield from _model_facts(report.manifest)
    if report.parameters is not None:
        yield "network", f"{report.parameters:,} parameters in {len(report.tensors)} tensors"
    elif report.tensors:
        yield "tensors", f"{len(report.tensors)}: {_some_tensors(report)}"
    if report.manifest is not None:
        error = report.canary_error
        yield "canary", "none recorded" if error is None else f"reproduced, largest difference {error:.2g}"


def _model_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    contract, training = manifest.contract, manifest.training
    names = f"{len(contract.feature_names)} features ({', '.join(contract.feature_names)})"
    if UNNAMED in contract.feature_names:
        names = "8 features, or 4 repeated; the file does not name them"
    yield (
        "contract",
        (
            f"preset {contract.preset}: {contract.context_length} rows of {names}, "
            f"transform {contract.input_transform}, label {contract.label}"
        ),
    )
    if "run_id" not in training:
        return
    yield (
        "trained",
        f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC in run {training['run_id']}, version {manifest.version}",
    )
    train = training.get("parts", {}).get("train")
    if train:
        yield (
            "trained on",
            (
                f"{sum(train.values()):,} samples ({train['win']:,} of label 1), "
                f"seed {training['seed']}, from {training.get('start', 'scratch')}"
            ),
        )
        yield "data", f"sha256 {training['data_sha256']}"
        yield "weights", f"sha256 {training['weights_sha256']}"
    if "lookback" in training:
        weights = ", ".join(f"{100 * weight:.0f}" for weight in training.get("patch_weights", ()))
        yield "lookback", f"{training['lookback']} rows (weights of the patches, oldest first: {weights} %)"
    measured = [
        f"{name} {manifest.scorecard[name]:.3f}"
        for name in ("auc", "log_loss", "ece")
        if isinstance(manifest.scorecard.get(name), float)
    ]
    yield "validation", ", ".join(measured) or "not measured"


def _some_tensors(report: FileReport) -> str:
    shown = [
        f"{name} {'x'.join(map(str, shape)) or 'scalar'}"
        for name, shape in list(report.tensors.items())[:_SHOWN_TENSORS]
    ]
    more = len(report.tensors) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
