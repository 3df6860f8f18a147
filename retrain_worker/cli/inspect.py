"""`inspect`: what a model file contains, and whether it is valid. Nothing in it is executed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.domain.artifact import Manifest
from retrain_worker.domain.printable import printable
from retrain_worker.domain.worker_protocol import UNNAMED, FileReport

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_EXIT_REFUSED = 11
_SHOWN_TENSORS = 4
_CHECKSUMS = {
    "agrees": "equals its checksum file",
    "differs": "DIFFERS from its checksum file",
    "none": "no checksum file",
}


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "inspect",
        help="what a model file contains and whether it is valid",
        epilog="exit: 0 every file is valid, 11 at least one is not, with the reason",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="any file; it is never executed")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line and file")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print one report for each file."""
    from retrain_worker.cli.once import as_json
    from retrain_worker.daemon import one_off_task

    reports = one_off_task.inspect(tuple(arguments.files)).reports
    for number, report in enumerate(reports):
        if arguments.json:
            print(as_json(report))
        else:
            print(("\n" if number else "") + as_text(report))
    return _EXIT_REFUSED if any(report.problem for report in reports) else 0


def as_text(report: FileReport) -> str:
    """The report as text."""
    lines = [report.path]
    lines.extend(f"  {name:<11} {printable(value)}" for name, value in _facts(report))
    verdict = f"INVALID: {printable(report.problem)}" if report.problem else "valid"
    lines.append(f"  {'verdict':<11} {verdict}")
    return "\n".join(lines)


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
