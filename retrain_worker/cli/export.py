"""`export`: a model in the format of another runtime, checked against its canary."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from retrain_worker.domain.worker_protocol import ExportFormat, ExportRequest

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_SUFFIXES = {ExportFormat.ONNX: ".onnx", ExportFormat.TORCH_EXPORT: ".pt2", ExportFormat.SAFETENSORS: ".safetensors"}


def add_to(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "export",
        help="write a model in the format of another runtime, checked against its canary",
        epilog="onnx and torch-export take raw windows (B, rows, features) and return P(label = 1); safetensors holds "
        "the weights, and the network's config in its header",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a model file that this program wrote")
    parser.add_argument("--format", required=True, choices=[str(each) for each in ExportFormat])
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with the suffix of the format")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Export and print the result. Raises UsageError, ArtifactError, ContractError."""
    from retrain_worker.daemon import one_off_task

    wanted = ExportFormat(arguments.format)
    output: Path = arguments.out or arguments.file.with_suffix(_SUFFIXES[wanted])
    result = one_off_task.export(
        ExportRequest(model_path=str(arguments.file.absolute()), format=wanted, output_path=str(output.absolute()))
    )
    print(
        f"{result.output_path}\n"
        f"  {result.size_bytes:,} bytes, sha256 {result.sha256}\n"
        f"  reproduces the {result.canary_windows} windows of the canary, largest difference {result.canary_error:.2g}"
    )
    return 0
