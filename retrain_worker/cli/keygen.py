"""`keygen`: a new key with which the daemon signs the models that it promotes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from retrain_worker.cli import options
from retrain_worker.cli.exit_codes import ExitCode


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Writes the private key to FILE, which must not exist, readable by its owner only. Prints the public key, for "
        "MODEL_PUBLIC_KEYS and for followers."
    )
    parser.epilog = "with systemd: sudo retrain-worker keygen /etc/quantum/retraining-worker.credentials/SIGNING_KEY"
    parser.add_argument("file", type=Path, metavar="FILE", help="for the private key")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Write the key. Raises UsageError when the file exists, SettingsError without the extra `signing`."""
    from retrain_worker.cli.results import NewKey
    from retrain_worker.cli.screen import as_json
    from retrain_worker.domain.printable import printable
    from retrain_worker.errors import UsageError
    from retrain_worker.signing import Signer, new_key

    private_key = new_key()
    try:
        fd = os.open(arguments.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise UsageError("exists", where=str(arguments.file), remedy="name another file, or move it away") from None
    with os.fdopen(fd, "w") as file:
        file.write(f"{private_key}\n")
        file.flush()
        os.fsync(fd)
    signer = Signer(private_key)
    if arguments.json:
        print(as_json(NewKey(file=str(arguments.file), key_id=signer.key_id, public_key=signer.public_key)))
        return ExitCode.DONE
    print(f"private key: {printable(arguments.file)} (mode 600; keep it out of backups that others read)")
    print(f"key id:      {signer.key_id}")
    print(f"MODEL_PUBLIC_KEYS={signer.public_key}")
    return ExitCode.DONE
