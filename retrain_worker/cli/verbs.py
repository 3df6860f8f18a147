"""The table of verbs, which `--help`, the completions and the man page list."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb. Its module has `add_options(parser)` and `execute(arguments) -> int`."""

    help: str
    #: without the name of the program
    example: str


#: title of a group -> its verbs by name
GROUPS: dict[str, dict[str, Verb]] = {
    "First steps": {
        "demo": Verb(help="one run on a simulated market", example="demo --home /tmp/demo"),
        "init-db": Verb(help="create a small valid trading database", example="init-db /tmp/trader.db"),
        "discover": Verb(help="which files of this host hold training data: the proof pack", example="discover /opt"),
        "check": Verb(help="what a start needs and does not find, and how to correct it", example="check"),
        "audit": Verb(help="is this data fit to train on, measurement by measurement", example="audit --db trader.db"),
    },
    "Runs": {
        "once": Verb(help="one run: pull, audit, train, gate, promote", example="once --db trader.db --home /tmp/try"),
        "run": Verb(help="the daemon: a run every RETRAIN_INTERVAL_H hours", example="run --home /tmp/try"),
        "trigger": Verb(help="request a run from the daemon now", example='trigger --reason "new market"'),
    },
    "State": {
        "status": Verb(help="model in the slot, current, last and next run, what is pending", example="status"),
        "watch": Verb(help="the status and the newest runs, live", example="watch"),
        "history": Verb(help="the runs, newest first, and how they ended", example="history --limit 50"),
        "gates": Verb(help="the verdict on a run's candidate, gate by gate", example="gates 20260110_033000"),
        "report": Verb(
            help="outcome and measurements of a run, as text or as an HTML page", example="report --html run.html"
        ),
        "deployments": Verb(
            help="changes of the engine's slot: who, when, why, confirmed or not", example="deployments"
        ),
        "events": Verb(help="the events on the Redis streams, and their JSON Schemas", example="events tail --follow"),
    },
    "The engine's slot": {
        "rollback": Verb(
            help="return an earlier model to the engine's slot", example='rollback --reason "loses money"'
        ),
        "pause": Verb(
            help="promote nothing until `resume`, or for a time; rollbacks stay possible",
            example='pause --reason "fees change" --for 3d',
        ),
        "resume": Verb(help="end a pause", example="resume"),
        "promote": Verb(
            help="put the candidate of a refused run into the engine's slot",
            example='promote 20260110_033000 --force --reason "reviewed by the desk"',
        ),
        "restart-engine": Verb(
            help="check the engine's slot, then restart its unit (needs root)", example="restart-engine"
        ),
    },
    "Model files": {
        "inspect": Verb(help="what a model file contains and whether it is valid", example="inspect model.pth"),
        "evaluate": Verb(
            help="the verdict of the gates on a model file; nothing is promoted",
            example="evaluate model.pth --db trader.db",
        ),
        "export": Verb(
            help="write a model in the format of another runtime, checked against its canary",
            example="export model.pth --format onnx",
        ),
    },
    "Configuration": {
        "config": Verb(help="each setting, its value, default and source", example="config show --changed"),
        "reload": Verb(
            help="the daemon reads its settings again (what `systemctl reload` runs)", example="reload --home /tmp/try"
        ),
        "access": Verb(
            help="grant the service what a swap needs on this host, or restore what was there (needs root)",
            example="access grant",
        ),
        "redis-acl": Verb(
            help="ACL rules of Redis for the daemon, the engine, followers, consumers and operators",
            example="redis-acl --role follower",
        ),
        "keygen": Verb(
            help="a new key with which the daemon signs the models that it promotes", example="keygen signing.key"
        ),
        "completion": Verb(help="print the completions for a shell, or the manual page", example="completion bash"),
    },
}
VERBS: dict[str, Verb] = {name: verb for group in GROUPS.values() for name, verb in group.items()}
