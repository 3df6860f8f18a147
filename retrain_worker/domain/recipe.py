"""The configuration of one training, as values."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum


class Preset(StrEnum):
    """Which network is trained."""

    #: the contract of the incumbent, else the last one that was in the slot; else `paper`, which a host has to confirm
    AUTO = "auto"
    #: the network that the stack's engine builds
    ENGINE = "engine"
    #: PatchTST of "A Time Series is Worth 64 Words" (ICLR 2023)
    PAPER = "paper"


class InputTransform(StrEnum):
    """How raw windows become network input."""

    #: the transform with the lower validation log loss
    AUTO = "auto"
    #: (x - mean) / std of the training part, stored in the model file
    STANDARDISE = "standardise"
    #: the paper's: per window and channel
    INSTANCE = "instance"
    #: per window and feature, done by the engine before the network: (x - min) / (max - min + 1e-8)
    MINMAX = "minmax"


class Precision(StrEnum):
    """Precision of the matrix products of training; weights, sums and all measurements are float32."""

    #: bf16 where this host gains from it
    AUTO = "auto"
    FP32 = "fp32"
    #: factors rounded to 8 bits of mantissa, on CPUs with units for it
    BF16 = "bf16"


class Balance(StrEnum):
    """Treatment of class imbalance, in the training part only."""

    #: all of the minority class and as many of the majority, drawn again for each epoch
    UNDERSAMPLE = "undersample"
    #: every sample, with equal total weight of the classes in the loss
    WEIGHTS = "weights"
    NONE = "none"


class ConstantWindow(StrEnum):
    """What a model of the engine preset may answer to a window that repeats one row."""

    #: HOLD; it is trained on such windows, and the contract gate requires it
    HOLD = "hold"
    ALLOW = "allow"


#: rows per window of the engine's network
ENGINE_CONTEXT_LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Values that each preset defines."""

    learning_rate: float
    dropout: float
    #: standard deviation of the noise on the transformed input during training
    input_noise: float
    #: weight decay on the high frequencies of the patch embedding, see worker.training.smoothing
    patch_smoothing: float


#: each is trained; the lower validation log loss is kept. The engine's patches hold 128 numbers: where a slow level
#: decides, smoothing and noise learn it from fewer rows; where single rows decide, they hide it
TUNINGS = {
    Preset.PAPER: (Tuning(learning_rate=2e-3, dropout=0.4, input_noise=0.0, patch_smoothing=0.0),),
    Preset.ENGINE: (
        Tuning(learning_rate=1e-3, dropout=0.2, input_noise=0.1, patch_smoothing=10.0),
        Tuning(learning_rate=1e-3, dropout=0.2, input_noise=0.0, patch_smoothing=0.0),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines the weights, besides the rows."""

    preset: Preset = Preset.AUTO
    input_transform: InputTransform = InputTransform.STANDARDISE
    #: rows per window; the engine preset fixes 128
    seq_len: int = 64
    max_epochs: int = 8
    #: epochs without an improvement of the validation log loss after which training stops
    patience: int = 5
    batch_size: int = 128
    #: None: the preset's value, as with dropout, input_noise and patch_smoothing
    learning_rate: float | None = None
    weight_decay: float = 1e-2
    warmup_share: float = 0.1
    max_grad_norm: float = 1.0
    dropout: float | None = None
    input_noise: float | None = None
    patch_smoothing: float | None = None
    label_smoothing: float = 0.0
    balance: Balance = Balance.UNDERSAMPLE
    constant_window: ConstantWindow = ConstantWindow.HOLD
    #: start from the incumbent's weights when its contract is the candidate's
    warm_start: bool = False
    seed: int = 20260110
    #: compute threads, each with a share of every batch; 0: torch's default
    threads: int = 2
    precision: Precision = Precision.AUTO
    #: cpu | cuda | auto
    device: str = "auto"
    #: standard deviation of the validation probabilities below which an epoch counts as collapsed
    collapse_std: float = 0.005
    #: consecutive collapsed epochs that end the attempt
    collapse_epochs: int = 5
    #: tunings that are tried beyond the preset's, and the minutes after which no further one begins
    search_trials: int = 0
    search_minutes: float = 60.0

    def window_length(self, incumbent: int | None) -> int:
        """Rows per window. `incumbent`: that of the contract that PRESET=auto follows; None: there is no such."""
        if self.preset is Preset.AUTO and incumbent is not None:
            return incumbent
        return ENGINE_CONTEXT_LENGTH if self.preset is Preset.ENGINE else self.seq_len

    def trains_on_constant_windows(self, preset: Preset) -> bool:
        """Whether batches hold windows without information."""
        return preset is Preset.ENGINE and self.constant_window is ConstantWindow.HOLD

    def tunings(self, preset: Preset) -> tuple[Tuning, ...]:
        """The distinct tunings to train: settings that are given, and the preset's values for the others."""
        mine = {field.name: getattr(self, field.name) for field in fields(Tuning)}
        given = {name: value for name, value in mine.items() if value is not None}
        return tuple(dict.fromkeys(replace(own, **given) for own in TUNINGS[preset]))
