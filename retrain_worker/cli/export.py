"""`export`: a model in the format of another runtime, checked against its canary."""

from __future__ import annotations

import argparse
from pathlib import Path

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode
from retrain_worker.domain.worker_protocol import ExportFormat, ExportRequest

_SUFFIXES = {ExportFormat.ONNX: ".onnx", ExportFormat.TORCH_EXPORT: ".pt2", ExportFormat.SAFETENSORS: ".safetensors"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "onnx and torch-export take raw windows (B, rows, features) and return P(label = 1); safetensors holds the "
        "weights, and the network's config in its header"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a model file that this program wrote")
    parser.add_argument(
        "--format", required=True, choices=[str(each) for each in ExportFormat], help="of the written file"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: FILE with the suffix of the format")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Export and print the result. Raises UsageError, ArtifactError, ContractError."""
    from retrain_worker.cli.progress import Activity
    from retrain_worker.cli.screen import pairs, show
    from retrain_worker.daemon import one_off_task

    wanted = ExportFormat(arguments.format)
    output: Path = arguments.out or arguments.file.with_suffix(_SUFFIXES[wanted])
    with Activity() as activity:
        activity.message(f"exporting {arguments.file.name} as {wanted}")
        result = one_off_task.export(
            ExportRequest(model_path=str(arguments.file.absolute()), format=wanted, output_path=str(output.absolute()))
        )
    lines = (
        result.output_path,
        f"  {result.size_bytes:,} bytes, sha256 {result.sha256}",
        f"  reproduces the {result.canary_windows} windows of the canary, largest difference {result.canary_error:.2g}",
    )
    show(arguments, result, lambda: pairs(("", line, "") for line in lines))
    return ExitCode.DONE
