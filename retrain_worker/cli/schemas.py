"""The JSON Schema of what each verb prints with --json: `python -m retrain_worker.cli.schemas` prints it.

docs/reference/command-line.schema.json holds it; a test compares the two.
"""

from __future__ import annotations

from typing import Any

import msgspec

from retrain_worker.adapters.event_tail import Unreadable
from retrain_worker.cli import results
from retrain_worker.daemon.status import Status
from retrain_worker.discovery.proof_pack import ProofPack
from retrain_worker.domain.envelope import ReceivedEvent
from retrain_worker.domain.lifecycle import Deployment
from retrain_worker.domain.worker_protocol import ExportResult
from retrain_worker.report.run_object import RunObject

#: verb -> its document; every verb prints a Failure instead when it fails
DOCUMENTS: dict[str, Any] = {
    "access": results.Changes,
    "audit": results.AuditReport,
    "check": results.CheckReport,
    "config diff": results.ConfigDiff,
    "config show": tuple[results.SettingReport, ...],
    "demo": RunObject,
    "deployments": tuple[Deployment, ...],
    "discover": ProofPack,
    "evaluate": results.EvaluationReport,
    "events schemas": results.WrittenFiles,
    "export": ExportResult,
    "gates": results.GatesReport,
    "history": tuple[RunObject, ...],
    "init-db": results.WrittenFiles,
    "inspect": tuple[results.InspectedFile, ...],
    "keygen": results.NewKey,
    "once": RunObject,
    "pause": results.PauseReport,
    "promote": results.PromoteReport,
    "reload": results.ReloadReport,
    "report": RunObject,
    "report --index, --compare": results.WrittenReport,
    "resume": results.PauseReport,
    "rollback": results.RollbackReport,
    "status": Status,
    "trigger": results.TriggerReport,
}


def schema() -> dict[str, Any]:
    """One schema for each verb under `$defs`, by its name. Newer versions may add keys."""
    kinds = {**DOCUMENTS, "failure": results.Failure}
    entries = (ReceivedEvent, Unreadable)
    (*schemas, event, unreadable), components = msgspec.json.schema_components(
        (*kinds.values(), *entries), ref_template="#/$defs/{name}"
    )
    documents = dict(zip(kinds, schemas, strict=True))
    documents["events tail"] = {"type": "array", "items": {"anyOf": [event, unreadable]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What `retrain-worker VERB --json` prints",
        "description": "The document of a verb is $defs/VERB, or $defs/failure.",
        "$defs": components | documents,
    }


def as_text() -> str:
    """The content of the file."""
    return msgspec.json.format(msgspec.json.encode(schema(), order="sorted"), indent=1).decode() + "\n"


if __name__ == "__main__":
    print(as_text(), end="")
