"""The environment, read once into frozen values; every problem in one message.

Nobody else reads the environment. Names and defaults stand here; what a number means stands with its owner in domain/.
`etc/quantum/retraining-worker.env` lists every name read here (a test compares the two).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from retrain_worker.domain.audit import DataPolicy
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.labels import Label, LabelConflict
from retrain_worker.domain.recipe import Balance, InputTransform, Precision, Preset, Recipe
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.trial_rules import ProbationPolicy, ShadowPolicy
from retrain_worker.errors import SettingsError

ENV_FILE = Path("/etc/quantum/retraining-worker.env")
CREDENTIALS_DIR = Path("/etc/quantum/retraining-worker.credentials")
#: settings whose value may be a secret, and may therefore come as a file
CREDENTIAL_NAMES = ("REDIS_PASSWORD", "REDIS_URL", "DATABASE_URL")
#: LoadCredential=settings:DIRECTORY names each file settings_NAME
_CREDENTIAL_PREFIX = "settings_"

#: share of the samples that holdout and validation may take together
_MAX_HELD_OUT = 0.8
_MIN_WORKER_MEMORY_MB = 512

#: true and false are what BALANCE was before it had three values
_BALANCE_WORDS = {**{str(each): each for each in Balance}, "true": Balance.UNDERSAMPLE, "false": Balance.NONE}

EnumType = TypeVar("EnumType", bound=StrEnum)
Number = TypeVar("Number", int, float)


class Confirm(StrEnum):
    """How the engine is seen serving a new model."""

    NONE = "none"
    #: a follower's acknowledgement on quantum:stream:model.served
    EVENT = "event"
    #: ENGINE_UNIT is active and was started after the swap
    UNIT = "unit"
    #: an entry of quantum:stream:trade.intent in which the engine names the model
    ANSWERS = "answers"


class Unconfirmed(StrEnum):
    """What becomes of a promotion that nobody was seen serving."""

    #: it stays; the outcome says that it is not confirmed
    KEEP = "keep"
    #: the model before it returns to the slot
    ROLLBACK = "rollback"


class Secret(str):
    """A text that may hold a password: its repr does not show it."""

    def __repr__(self) -> str:
        """Masked, whatever is inside."""
        return "'***'" if self else "''"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What this process was told. Paths are absolute."""

    retrain_interval_hours: float
    #: SQLAlchemy URL of the trading database; may hold a password
    database_url: Secret
    #: the path when the database is an SQLite file
    database_path: Path | None
    #: empty = an embedded Redis under the home
    redis_url: Secret
    state_path: Path
    model_path: Path
    checkpoint_path: Path
    engine_models_dir: Path
    engine_env_file: Path
    engine_trigger_file: Path
    engine_unit: str
    engine_user: str
    engine_confirm: Confirm
    engine_confirm_seconds: float
    unconfirmed: Unconfirmed
    allow_live_swap: bool
    #: fill ai_model_versions and model_training_runs of the stack when they exist
    bookkeeping: bool
    keep_runs: int
    keep_models: int
    stage_deadline_minutes: float
    worker_memory_mb: int
    #: niceness of the worker
    worker_nice: int
    max_retries: int
    log_level: str
    log_format: str
    data: DataPolicy
    split: SplitPolicy
    recipe: Recipe
    gate: GatePolicy
    shadow: ShadowPolicy
    probation: ProbationPolicy
    trial_check_minutes: float
    #: set when everything lies under one folder
    home: Path | None = None
    #: every name that was asked for, with its default as text
    names: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def worker_memory_bytes(self) -> int:
        """What one worker may take; 0 = no limit."""
        return self.worker_memory_mb * 2**20


def load(environment: Mapping[str, str], *, home: Path | None = None, db: str | None = None) -> Settings:
    """Read the environment. Raises SettingsError that names every problem.

    With `home`, everything that is written lies under it, except the engine's env file when ENGINE_ENV_FILE names one.
    `db` (a path or a URL) overrides DB_PATH and DATABASE_URL.
    """
    read = _Reader(environment)
    database_url, database_path = _database(read, db)
    settings = Settings(
        retrain_interval_hours=read.number("RETRAIN_INTERVAL_H", 24.0, low=0.001, high=24.0 * 365),
        database_url=database_url,
        database_path=database_path,
        redis_url=_redis_url(read, home),
        state_path=_under(home, "state", read.path("STATE_PATH", _state_default(environment))),
        model_path=_under(home, "models", read.path("MODEL_PATH", "/data/quantum/models")),
        checkpoint_path=_under(home, "checkpoints", read.path("CHECKPOINT_PATH", "/data/quantum/checkpoints")),
        engine_models_dir=_under(
            home, "engine/models", read.path("ENGINE_MODELS_DIR", "/opt/quantum/ai_engine/models")
        ),
        engine_env_file=read.path(
            "ENGINE_ENV_FILE", str(home / "engine/ai-engine.env") if home else "/etc/quantum/ai-engine.env"
        ),
        engine_trigger_file=_under(
            home, "engine/restart-requested", read.path("ENGINE_TRIGGER_FILE", _trigger_default(environment))
        ),
        engine_unit=read.text("ENGINE_UNIT", "quantum-ai-engine.service"),
        engine_user=read.text("ENGINE_USER", ""),
        engine_confirm=read.word("ENGINE_CONFIRM", Confirm.EVENT),
        engine_confirm_seconds=read.number("ENGINE_CONFIRM_TIMEOUT_S", 15.0 if home else 120.0, low=0.0, high=86400.0),
        unconfirmed=read.word("UNCONFIRMED", Unconfirmed.KEEP),
        allow_live_swap=read.flag("ALLOW_LIVE_SWAP", default=False),
        bookkeeping=read.flag("BOOKKEEPING", default=True) and home is None,
        keep_runs=read.count("KEEP_RUNS", 10, low=1),
        keep_models=read.count("KEEP_MODELS", 10, low=2),
        stage_deadline_minutes=read.number("STAGE_DEADLINE_MIN", 120.0, low=0.1),
        worker_memory_mb=read.count("WORKER_MEMORY_MB", 0),
        worker_nice=read.count("WORKER_NICE", 10, high=19),
        max_retries=read.count("MAX_RETRIES", 3),
        log_level=read.choice("LOGLEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        log_format=read.choice("LOGFORMAT", "auto", ("auto", "json", "text")),
        data=_data_policy(read),
        split=_split_policy(read),
        recipe=_recipe(read),
        gate=_gate_policy(read),
        shadow=_shadow_policy(read),
        probation=_probation_policy(read),
        trial_check_minutes=read.number("TRIAL_CHECK_MIN", 10.0, low=0.0, high=1440.0),
        home=home,
        names=read.asked,
    )
    read.problems += _contradictions(settings)
    read.finish()
    return settings


def credentials_in(environment: Mapping[str, str], *, home: Path | None = None) -> dict[str, str]:
    """Settings that come as files of $CREDENTIALS_DIRECTORY (LoadCredential=), one value in each; they win.

    Without it and without a home, CREDENTIALS_DIR itself is read where we may: by root, on the command line.
    Raises SettingsError.
    """
    given = environment.get("CREDENTIALS_DIRECTORY", "")
    directory = Path(given) if given else CREDENTIALS_DIR
    if (not given and home is not None) or not os.access(directory, os.R_OK | os.X_OK):
        return {}
    try:
        found = {
            path.name.removeprefix(_CREDENTIAL_PREFIX): path.read_text().strip()
            for path in sorted(directory.iterdir())
            if path.is_file()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError((f"{directory}: a credential cannot be read ({error})",), where=str(directory)) from None
    unknown = tuple(
        f"{directory}/{name} is not one of {', '.join(CREDENTIAL_NAMES)}"
        for name in found
        if name not in CREDENTIAL_NAMES
    )
    if unknown:
        raise SettingsError(unknown, where=str(directory), remedy="rename or remove the file")
    return found


def reload_answer_path(environment: Mapping[str, str], *, home: Path | None) -> Path:
    """Where the daemon leaves how a reload ended; must be known however wrong the settings are."""
    return home / "state/reload.json" if home is not None else _runtime_path(environment) / "reload.json"


def likely_misspellings(given: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """Names in an env file that we do not know but that look like one of ours."""
    found = []
    for name in given:
        close = difflib.get_close_matches(name, settings.names, n=1, cutoff=0.85)
        if close and name not in settings.names:
            found.append(f"{name} is not a setting; was {close[0]} meant?")
    return tuple(found)


def unknown_names(given: Mapping[str, str], settings: Settings) -> tuple[str, ...]:
    """Names in an env file that no setting has: they may be meant for PyTorch, or be mistaken."""
    return tuple(name for name in given if name not in settings.names)


def _contradictions(settings: Settings) -> list[str]:
    """Values that are sound each by itself, and let nothing pass together."""
    gate, shadow, split = settings.gate, settings.shadow, settings.split
    found = [
        (
            gate.agreement_required and gate.min_agreement > gate.max_agreement,
            "GATE_MIN_AGREEMENT is over GATE_MAX_AGREEMENT",
        ),
        (gate.min_action_share > 0.5, "GATE_MIN_ACTION_SHARE is over 0.5, which two actions cannot both have"),
        (
            shadow.hours > shadow.max_hours,
            "SHADOW_HOURS is over SHADOW_MAX_HOURS, so every trial would be over before it may be judged",
        ),
        (
            split.holdout_share + split.validation_share > _MAX_HELD_OUT,
            f"HOLDOUT_SHARE and VALIDATION_SHARE leave less than {1 - _MAX_HELD_OUT:.0%} of the rows to train on",
        ),
        (
            0 < settings.worker_memory_mb < _MIN_WORKER_MEMORY_MB,
            f"WORKER_MEMORY_MB={settings.worker_memory_mb}: PyTorch alone needs {_MIN_WORKER_MEMORY_MB}; 0 is no limit",
        ),
    ]
    return [problem for is_so, problem in found if is_so]


def _data_policy(read: _Reader) -> DataPolicy:
    default = DataPolicy()
    return DataPolicy(
        train_window_days=read.count("TRAIN_WINDOW_DAYS", default.train_window_days),
        min_new_samples=read.count("MIN_NEW_SAMPLES", default.min_new_samples),
        min_samples=read.count("MIN_SAMPLES", default.min_samples, low=100),
        min_class_samples=read.count("MIN_CLASS_SAMPLES", default.min_class_samples, low=1),
        min_class_share=read.number("MIN_CLASS_SHARE", default.min_class_share, low=0.0, high=0.5),
        label=read.word("LABEL", default.label, Label),
        label_conflict=read.word("LABEL_CONFLICT", default.label_conflict, LabelConflict),
        max_contradiction_share=read.share("MAX_CONTRADICTION_SHARE", default.max_contradiction_share),
        max_quarantine_share=read.share("MAX_QUARANTINE_SHARE", default.max_quarantine_share),
        max_single_feature_auc=read.number("MAX_SINGLE_FEATURE_AUC", default.max_single_feature_auc, low=0.5, high=1.0),
        max_gap_hours=read.number("MAX_GAP_H", default.max_gap_hours, low=0.0),
        warn_staleness_hours=read.number("WARN_STALENESS_H", default.warn_staleness_hours, low=0.0),
        drift_alpha=read.number("DRIFT_ALPHA", default.drift_alpha, low=1e-9, high=0.5),
        min_drift=read.share("MIN_DRIFT", default.min_drift),
        feature_names=tuple(name.strip() for name in read.text("FEATURE_NAMES", "").split(",") if name.strip()),
    )


def _split_policy(read: _Reader) -> SplitPolicy:
    default = SplitPolicy()
    return SplitPolicy(
        holdout_share=read.number("HOLDOUT_SHARE", default.holdout_share, low=0.05, high=0.5),
        validation_share=read.number("VALIDATION_SHARE", default.validation_share, low=0.05, high=0.4),
        embargo_hours=read.number("EMBARGO_H", default.embargo_hours, low=0.0),
        backtest_folds=read.count("GATE_BACKTEST_FOLDS", default.backtest_folds, high=5),
    )


def _recipe(read: _Reader) -> Recipe:
    default = Recipe()
    return Recipe(
        preset=read.word("PRESET", default.preset, Preset),
        input_transform=read.word("INPUT_TRANSFORM", default.input_transform, InputTransform),
        seq_len=read.count("SEQ_LEN", default.seq_len, low=2, high=4096),
        max_epochs=read.count("MAX_EPOCHS", default.max_epochs, low=1),
        patience=read.count("PATIENCE", default.patience, low=1),
        batch_size=read.count("BATCH_SIZE", default.batch_size, low=1),
        learning_rate=read.optional_number("LEARNING_RATE", low=1e-8, high=1.0),
        weight_decay=read.number("WEIGHT_DECAY", default.weight_decay, low=0.0, high=10.0),
        dropout=read.optional_number("DROPOUT", low=0.0, high=0.9),
        patch_smoothing=read.optional_number("PATCH_SMOOTHING", low=0.0, high=1000.0),
        input_noise=read.optional_number("INPUT_NOISE", low=0.0, high=10.0),
        label_smoothing=read.number("LABEL_SMOOTHING", default.label_smoothing, low=0.0, high=0.5),
        balance=Balance(_BALANCE_WORDS[read.choice("BALANCE", default.balance, tuple(_BALANCE_WORDS))]),
        warm_start=read.flag("WARM_START", default=default.warm_start),
        pretrain_epochs=read.count("PRETRAIN_EPOCHS", default.pretrain_epochs, high=10_000),
        seed=read.count("SEED", default.seed),
        threads=read.count("TRAIN_THREADS", default.threads, high=1024),
        precision=read.word("PRECISION", default.precision, Precision),
        device=read.choice("DEVICE", default.device, ("auto", "cpu", "cuda")),
    )


def _gate_policy(read: _Reader) -> GatePolicy:
    default = GatePolicy()
    return GatePolicy(
        min_rows=read.count("GATE_MIN_ROWS", default.min_rows, low=30),
        max_action_share=read.share("GATE_MAX_ACTION_SHARE", default.max_action_share),
        min_action_share=read.share("GATE_MIN_ACTION_SHARE", default.min_action_share),
        min_spread_std=read.number("GATE_MIN_SPREAD_STD", default.min_spread_std, low=0.0, high=0.5),
        min_spread_p10_p90=read.share("GATE_MIN_SPREAD_P10_P90", default.min_spread_p10_p90),
        agreement_required=read.choice("AGREEMENT", "advisory", ("advisory", "required")) == "required",
        min_agreement=read.share("GATE_MIN_AGREEMENT", default.min_agreement),
        max_agreement=read.share("GATE_MAX_AGREEMENT", default.max_agreement),
        borderline_agreement=read.share("GATE_BORDERLINE_AGREEMENT", default.borderline_agreement),
        max_opposition=read.share("GATE_MAX_OPPOSITION", default.max_opposition),
        skill_alpha=read.number("GATE_SKILL_ALPHA", default.skill_alpha, low=1e-9, high=0.2),
        false_promotions_per_year=read.number(
            "GATE_FALSE_PROMOTIONS_PER_YEAR", default.false_promotions_per_year, low=0.0, high=100.0
        ),
        newest_alpha=read.number("GATE_NEWEST_ALPHA", default.newest_alpha, low=1e-9, high=0.5),
        calibration_alpha=read.number("GATE_CALIBRATION_ALPHA", default.calibration_alpha, low=1e-6, high=0.2),
        ece_tolerance=read.share("GATE_ECE_TOLERANCE", default.ece_tolerance),
        min_confidence_slope=read.share("GATE_MIN_CONFIDENCE_SLOPE", default.min_confidence_slope),
        incumbent_margin=read.number("GATE_INCUMBENT_MARGIN", default.incumbent_margin, low=0.0, high=1.0),
        incumbent_alpha=read.number("GATE_INCUMBENT_ALPHA", default.incumbent_alpha, low=1e-6, high=0.5),
        min_slice_rows=read.count("GATE_MIN_SLICE_ROWS", default.min_slice_rows, low=10),
        slice_alpha=read.number("GATE_SLICE_ALPHA", default.slice_alpha, low=1e-6, high=0.2),
        # a file that is further off is not even read
        canary_tolerance=read.number("GATE_CANARY_TOLERANCE", default.canary_tolerance, low=1e-9, high=1e-5),
        max_constant_input_share=read.share("GATE_MAX_CONSTANT_INPUT_SHARE", default.max_constant_input_share),
    )


def _shadow_policy(read: _Reader) -> ShadowPolicy:
    default = ShadowPolicy()
    return ShadowPolicy(
        min_outcomes=read.count("SHADOW_MIN_OUTCOMES", default.min_outcomes),
        hours=read.number("SHADOW_HOURS", default.hours, low=0.0),
        max_hours=read.number("SHADOW_MAX_HOURS", default.max_hours, low=0.0),
        skill_alpha=read.number("SHADOW_SKILL_ALPHA", default.skill_alpha, low=1e-9, high=0.2),
    )


def _probation_policy(read: _Reader) -> ProbationPolicy:
    default = ProbationPolicy()
    return ProbationPolicy(
        hours=read.number("PROBATION_HOURS", default.hours, low=0.0),
        min_outcomes=read.count("PROBATION_MIN_OUTCOMES", default.min_outcomes, low=1),
        margin=read.number("PROBATION_MARGIN", default.margin, low=0.0, high=1.0),
        alpha=read.number("PROBATION_ALPHA", default.alpha, low=1e-6, high=0.5),
        min_rows=read.count("PROBATION_MIN_ROWS", default.min_rows, low=10),
        min_std=read.number("PROBATION_MIN_STD", default.min_std, low=0.0, high=0.5),
        max_action_share=read.share("PROBATION_MAX_ACTION_SHARE", default.max_action_share),
    )


def _database(read: _Reader, db: str | None) -> tuple[Secret, Path | None]:
    url = read.text("DATABASE_URL", "")
    path = read.path("DB_PATH", "/opt/quantum/data/quantum_trader.db")
    if db is not None and "://" not in db:
        url, path = "", Path(db).expanduser().absolute()
    elif db is not None:
        url = db
    if not url:
        return Secret(f"sqlite:///{quote(str(path))}"), path
    if url.startswith("sqlite:///"):
        return Secret(url), Path(unquote(url.removeprefix("sqlite:///").partition("?")[0]))
    if not url.startswith("postgresql"):
        read.problems.append("DATABASE_URL: only sqlite:///PATH and postgresql://... are understood")
    return Secret(url), None


def _redis_url(read: _Reader, home: Path | None) -> Secret:
    named = any(read.is_given(name) for name in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB"))
    url = read.text("REDIS_URL", "")
    host, port = read.text("REDIS_HOST", "localhost"), read.count("REDIS_PORT", 6379, low=1, high=65535)
    number, password = read.count("REDIS_DB", 0), read.text("REDIS_PASSWORD", "")
    if url and not _is_redis_url(url):
        read.problems.append("REDIS_URL: must be redis://host:port/number, rediss://... or unix:///path")
    if url or (home is not None and not named):
        return Secret(url)
    user = f":{quote(password, safe='')}@" if password else ""
    return Secret(f"redis://{user}{host}:{port}/{number}")


def _is_redis_url(url: str) -> bool:
    """Whether it can be one; the password in it is never repeated."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        return False
    return parts.scheme in {"redis", "rediss", "unix"} and port > 0


def _under(home: Path | None, name: str, otherwise: Path) -> Path:
    return home / name if home is not None else otherwise


def _state_default(environment: Mapping[str, str]) -> str:
    return environment.get("STATE_DIRECTORY", "").split(":")[0] or "/var/lib/quantum-retraining-worker"


def _trigger_default(environment: Mapping[str, str]) -> str:
    return str(_runtime_path(environment) / "engine-restart")


def _runtime_path(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/run/quantum-retraining-worker")


class _Reader:
    """Reads typed values and collects what is wrong; a wrong value reads as its default until `finish` raises."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self.asked: dict[str, str] = {}
        self._environment = environment

    def is_given(self, name: str) -> bool:
        return bool(self._environment.get(name, "").strip())

    def text(self, name: str, default: str) -> str:
        self.asked[name] = default
        value = self._environment.get(name, "").strip() or default
        if "\n" in value or "\0" in value:
            self.problems.append(f"{name}: must be one line")
            return default
        return value

    def path(self, name: str, default: str) -> Path:
        value = Path(self.text(name, default)).expanduser()
        if not value.is_absolute():
            self.problems.append(f"{name}={value}: must be an absolute path")
        return value

    def number(self, name: str, default: float, *, low: float = 0.0, high: float = float("inf")) -> float:
        return self._ranged(name, float, low=low, high=high, shown=f"{default:g}")

    def optional_number(self, name: str, *, low: float, high: float) -> float | None:
        """None where nothing is given: what that means stands with its owner."""
        if not self.text(name, ""):
            return None
        return self._ranged(name, float, low=low, high=high, shown="")

    def count(self, name: str, default: int, *, low: int = 0, high: int = 2**62) -> int:
        return self._ranged(name, int, low=low, high=high, shown=str(default))

    def share(self, name: str, default: float) -> float:
        return self.number(name, default, low=0.0, high=1.0)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.text(name, "true" if default else "false").lower()
        if value not in {"true", "false", "1", "0", "yes", "no"}:
            self.problems.append(f"{name}={value}: must be true or false")
        return value in {"true", "1", "yes"}

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        for known in choices:
            if value.lower() == known.lower():
                return known
        self.problems.append(f"{name}={value}: must be one of {', '.join(choices)}")
        return default

    def word(self, name: str, default: EnumType, kind: type[EnumType] | None = None) -> EnumType:
        members = kind or type(default)
        return members(self.choice(name, default, tuple(members)))

    def finish(self) -> None:
        if self.problems:
            raise SettingsError(tuple(self.problems), where="settings", remedy="mend them and start again")

    def _ranged(self, name: str, kind: Callable[[str], Number], *, low: float, high: float, shown: str) -> Number:
        given = self.text(name, shown)
        try:
            value = kind(given)
        except ValueError:
            self.problems.append(f"{name}={given}: must be a {'whole ' if kind is int else ''}number")
            return kind(shown or "0")
        if not low <= value <= high or value == float("inf"):
            bounds = f"at least {low:g}" if high in (float("inf"), 2**62) else f"between {low:g} and {high:g}"
            self.problems.append(f"{name}={given}: must be {bounds}")
            return kind(shown or "0")
        return value
