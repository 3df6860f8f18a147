"""One promotion of a prepared slot: publish, point to, trigger. What the fault tests kill and starve.

Run as `python -S -P -m ... ROOT SHA256`; exit 0 when done, 1 with the error's class on stderr.
"""

import sys
from pathlib import Path

from retrain_worker.adapters.model_slot import ModelSlot
from retrain_worker.errors import RetrainError

VERSION = "patchtst_v20260110_120000"


def slot_in(root: Path) -> ModelSlot:
    return ModelSlot(engine_models_dir=root / "models", engine_env_file=root / "etc" / "ai-engine.env",
                     trigger_file=root / "etc" / "trigger")


def main(root: Path, sha256: str) -> None:
    slot = slot_in(root)
    slot.sweep()
    published = slot.publish(root / "run" / f"{VERSION}.pth", expected_sha256=sha256)
    slot.point_to(published, expected_sha256=sha256, replacing=slot.current_path())
    slot.trigger(published)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except RetrainError as error:
        sys.exit(f"{type(error).__name__}: {error}")
