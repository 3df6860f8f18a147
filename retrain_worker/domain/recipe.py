"""How a candidate is trained: the settings of one training run, as values."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum


class Preset(StrEnum):
    """Which network is trained."""

    #: the incumbent's contract when there is an incumbent, else `paper`
    AUTO = "auto"
    #: what the stack's engine builds by itself today
    ENGINE = "engine"
    #: PatchTST of "A Time Series is Worth 64 Words" (ICLR 2023)
    PAPER = "paper"


class InputTransform(StrEnum):
    """How raw windows become network input."""

    #: the one with the lower validation log loss
    AUTO = "auto"
    #: (x - mean) / std of the training part, carried inside the model file
    STANDARDISE = "standardise"
    #: the paper's: per window and channel
    INSTANCE = "instance"
    #: per window and feature, done by the engine before the network: (x - min) / (max - min + 1e-8)
    MINMAX = "minmax"


class Precision(StrEnum):
    """How the matrix products of training are computed; weights, sums and everything measured stay in float32."""

    #: bf16 where this machine gains from it
    AUTO = "auto"
    FP32 = "fp32"
    #: factors rounded to 8 bits of mantissa, on CPUs with units for it
    BF16 = "bf16"


class Balance(StrEnum):
    """What is done about one class being commoner than the other, in the training part only."""

    #: all of the rarer class, as many of the commoner, drawn anew for each epoch
    UNDERSAMPLE = "undersample"
    #: every sample, each class weighing the same in the loss
    WEIGHTS = "weights"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What each preset has values of its own for."""

    learning_rate: float
    dropout: float
    #: std of the noise on the transformed input while training, see model.patchtst.PatchTSTConfig
    input_noise: float
    #: decay of fast wiggles in the patch embedding, see work.training.smoothing
    patch_smoothing: float


#: each is tried; the lower validation log loss wins. The engine's patches hold 128 numbers: where a slow level decides,
#: smoothing and noise find it in fewer rows; where single rows decide, they hide it
TUNINGS = {
    Preset.PAPER: (Tuning(learning_rate=2e-3, dropout=0.4, input_noise=0.0, patch_smoothing=0.0),),
    Preset.ENGINE: (
        Tuning(learning_rate=1e-3, dropout=0.2, input_noise=0.1, patch_smoothing=10.0),
        Tuning(learning_rate=1e-3, dropout=0.2, input_noise=0.0, patch_smoothing=0.0),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, besides the rows."""

    preset: Preset = Preset.AUTO
    input_transform: InputTransform = InputTransform.STANDARDISE
    #: rows per window; the engine preset fixes 128
    seq_len: int = 64
    max_epochs: int = 8
    #: epochs without a better validation log loss after which training stops
    patience: int = 5
    batch_size: int = 128
    #: None: the preset's, as with dropout, input_noise and patch_smoothing
    learning_rate: float | None = None
    weight_decay: float = 1e-2
    warmup_share: float = 0.1
    max_grad_norm: float = 1.0
    dropout: float | None = None
    input_noise: float | None = None
    patch_smoothing: float | None = None
    label_smoothing: float = 0.0
    balance: Balance = Balance.UNDERSAMPLE
    #: start from the incumbent's weights when its contract is the candidate's
    warm_start: bool = False
    #: epochs of masked-patch pre-training before the training, on labelled and open rows alike
    pretrain_epochs: int = 0
    seed: int = 20260110
    #: compute threads, each with its share of every batch; 0 = as many as torch takes by itself
    threads: int = 2
    precision: Precision = Precision.AUTO
    #: cpu | cuda | auto
    device: str = "auto"
    #: std of validation probabilities under which an epoch counts as collapsed
    collapse_std: float = 0.005
    #: consecutive collapsed epochs that end the attempt
    collapse_epochs: int = 5

    def tunings(self, preset: Preset) -> tuple[Tuning, ...]:
        """What was set, and the preset's own values for what was not: each one to try, no two alike."""
        mine = {field.name: getattr(self, field.name) for field in fields(Tuning)}
        given = {name: value for name, value in mine.items() if value is not None}
        return tuple(dict.fromkeys(replace(own, **given) for own in TUNINGS[preset]))
