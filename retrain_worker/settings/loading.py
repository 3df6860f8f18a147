"""The table of settings: names, types, defaults and limits, read into one frozen `Settings`.

What a policy value means is documented at its owner in domain/. `etc/quantum/retraining-worker.env` lists every name
with its default; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from retrain_worker.domain.confirmation import Confirm, Unconfirmed
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.database_url import canonical, is_postgresql
from retrain_worker.domain.gates import GatePolicy
from retrain_worker.domain.probation import ProbationPolicy
from retrain_worker.domain.recipe import ConstantWindow, Recipe
from retrain_worker.domain.redis_names import DEFAULT_PREFIX, NAME, RedisNames
from retrain_worker.domain.shadow_trial import ShadowPolicy
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.errors import SettingsError
from retrain_worker.settings.names import with_current_names
from retrain_worker.settings.reader import Reader

ENV_FILE = Path("/etc/quantum/retraining-worker.env")

#: share of the samples that holdout and validation may take together
_MAX_HELD_OUT = 0.8
_MIN_WORKER_MEMORY_MB = 512


class Secret(str):
    """Text that may contain a password; its repr is masked."""

    def __repr__(self) -> str:
        """Asterisks for any value that is not empty."""
        return "'***'" if self else "''"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of this process. Paths are absolute."""

    retrain_interval_hours: float
    #: SQLAlchemy URL of the trading database; may hold a password
    database_url: Secret
    #: the path when the database is an SQLite file
    database_path: Path | None
    #: empty: an embedded Redis under `home`
    redis_url: Secret
    redis_names: RedisNames
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
    event_aliases: bool
    allow_live_swap: bool
    #: fill ai_model_versions and model_training_runs of the stack when they exist
    bookkeeping: bool
    #: scheduled and requested runs begin during a pause as well; none is promoted
    train_while_paused: bool
    keep_runs: int
    keep_models: int
    stage_deadline_minutes: float
    worker_memory_mb: int
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
    trial_interval_minutes: float
    #: the directory that holds everything this program writes, when --home is given
    home: Path | None
    #: the name of every setting, with its default as text
    names: Mapping[str, str] = field(repr=False)
    #: one message for each deprecated name or value that was given
    deprecations: tuple[str, ...]

    @property
    def worker_memory_bytes(self) -> int:
        """Memory limit of one worker process; 0: none."""
        return self.worker_memory_mb * 2**20


def load(
    environment: Mapping[str, str],
    *,
    home: Path | None = None,
    db: str | None = None,
    on_problem: Callable[[str], None] | None = None,
) -> Settings:
    """Read the settings from `environment`. Raises SettingsError, which names every problem.

    With `on_problem`, which gets each problem, nothing is raised: a setting with an invalid value has its default.

    With `home`, everything that is written is under it, except the engine's env file when ENGINE_ENV_FILE names one.
    `db` (a path or a URL) overrides DB_PATH and DATABASE_URL.
    """
    current = with_current_names(environment)
    read = Reader(current.environment)
    database_url, database_path = _database(read, db)
    recipe = _recipe(read)
    settings = Settings(
        retrain_interval_hours=read.number("RETRAIN_INTERVAL_H", 24.0, low=0.001, high=24.0 * 365),
        database_url=database_url,
        database_path=database_path,
        redis_url=_redis_url(read, home),
        redis_names=_redis_names(read),
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
        engine_confirm=read.member("ENGINE_CONFIRM", Confirm.AUTO),
        engine_confirm_seconds=read.number("ENGINE_CONFIRM_TIMEOUT_S", 15.0 if home else 120.0, low=0.0, high=86400.0),
        unconfirmed=read.member("UNCONFIRMED", Unconfirmed.KEEP),
        event_aliases=read.flag("EVENT_ALIASES", default=True),
        allow_live_swap=read.flag("ALLOW_LIVE_SWAP", default=False),
        bookkeeping=read.flag("BOOKKEEPING", default=True) and home is None,
        train_while_paused=read.flag("TRAIN_WHILE_PAUSED", default=False),
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
        recipe=recipe,
        gate=_gate_policy(read, recipe),
        shadow=_shadow_policy(read),
        probation=_probation_policy(read),
        trial_interval_minutes=read.number("TRIAL_INTERVAL_MIN", 10.0, low=0.0, high=1440.0),
        home=home,
        names=read.defaults,
        deprecations=current.deprecations,
    )
    problems = (*read.problems, *current.problems, *_contradictions(settings))
    if on_problem is not None:
        for problem in problems:
            on_problem(problem)
    elif problems:
        raise SettingsError(problems)
    return settings


def reload_answer_path(environment: Mapping[str, str], *, home: Path | None) -> Path:
    """The file in which the daemon leaves the result of a reload; it depends on no setting."""
    return home / "state/reload.json" if home is not None else _runtime_path(environment) / "reload.json"


def _contradictions(settings: Settings) -> list[str]:
    """Problems of values that are valid alone but exclude each other."""
    gate, shadow, split = settings.gate, settings.shadow, settings.split
    found = [
        (
            gate.agreement_required and gate.min_agreement > gate.max_agreement,
            "GATE_MIN_AGREEMENT is greater than GATE_MAX_AGREEMENT",
        ),
        (gate.min_action_share > 0.5, "GATE_MIN_ACTION_SHARE is greater than 0.5: two actions cannot both reach it"),
        (
            shadow.hours > shadow.max_hours,
            "SHADOW_HOURS is greater than SHADOW_MAX_HOURS: every trial would end before its first verdict",
        ),
        (
            split.holdout_share + split.validation_share > _MAX_HELD_OUT,
            f"HOLDOUT_SHARE and VALIDATION_SHARE leave less than {1 - _MAX_HELD_OUT:.0%} of the rows to train on",
        ),
        (
            0 < settings.worker_memory_mb < _MIN_WORKER_MEMORY_MB,
            f'WORKER_MEMORY_MB: "{settings.worker_memory_mb}" is not 0 (no limit) or at least {_MIN_WORKER_MEMORY_MB}',
        ),
    ]
    return [problem for is_so, problem in found if is_so]


def _data_policy(read: Reader) -> DataPolicy:
    default = DataPolicy()
    return DataPolicy(
        train_window_days=read.count("TRAIN_WINDOW_DAYS", default.train_window_days),
        min_new_samples=read.count("MIN_NEW_SAMPLES", default.min_new_samples),
        min_samples=read.count("MIN_SAMPLES", default.min_samples, low=100),
        min_class_samples=read.count("MIN_CLASS_SAMPLES", default.min_class_samples, low=1),
        min_class_share=read.number("MIN_CLASS_SHARE", default.min_class_share, low=0.0, high=0.5),
        label=read.member("LABEL", default.label),
        label_conflict=read.member("LABEL_CONFLICT", default.label_conflict),
        max_contradiction_share=read.share("MAX_CONTRADICTION_SHARE", default.max_contradiction_share),
        max_quarantine_share=read.share("MAX_QUARANTINE_SHARE", default.max_quarantine_share),
        max_single_feature_auc=read.number("MAX_SINGLE_FEATURE_AUC", default.max_single_feature_auc, low=0.5, high=1.0),
        max_gap_hours=read.number("MAX_GAP_H", default.max_gap_hours, low=0.0),
        warn_staleness_hours=read.number("WARN_STALENESS_H", default.warn_staleness_hours, low=0.0),
        drift_alpha=read.number("DRIFT_ALPHA", default.drift_alpha, low=1e-9, high=0.5),
        min_drift=read.share("MIN_DRIFT", default.min_drift),
        feature_names=tuple(name.strip() for name in read.text("FEATURE_NAMES", "").split(",") if name.strip()),
    )


def _split_policy(read: Reader) -> SplitPolicy:
    default = SplitPolicy()
    return SplitPolicy(
        holdout_share=read.number("HOLDOUT_SHARE", default.holdout_share, low=0.05, high=0.5),
        validation_share=read.number("VALIDATION_SHARE", default.validation_share, low=0.05, high=0.4),
        embargo_hours=read.number("EMBARGO_H", default.embargo_hours, low=0.0),
        backtest_folds=read.count("GATE_BACKTEST_FOLDS", default.backtest_folds, high=5),
    )


def _recipe(read: Reader) -> Recipe:
    default = Recipe()
    return Recipe(
        preset=read.member("PRESET", default.preset),
        input_transform=read.member("INPUT_TRANSFORM", default.input_transform),
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
        balance=read.member("BALANCE", default.balance),
        constant_window=read.member("CONSTANT_WINDOW", default.constant_window),
        warm_start=read.flag("WARM_START", default=default.warm_start),
        pretrain_epochs=read.count("PRETRAIN_EPOCHS", default.pretrain_epochs, high=10_000),
        seed=read.count("SEED", default.seed),
        threads=read.count("TRAIN_THREADS", default.threads, high=1024),
        precision=read.member("PRECISION", default.precision),
        device=read.choice("DEVICE", default.device, ("auto", "cpu", "cuda")),
    )


def _gate_policy(read: Reader, recipe: Recipe) -> GatePolicy:
    default = GatePolicy()
    return GatePolicy(
        min_rows=read.count("GATE_MIN_ROWS", default.min_rows, low=30),
        max_action_share=read.share("GATE_MAX_ACTION_SHARE", default.max_action_share),
        min_action_share=read.share("GATE_MIN_ACTION_SHARE", default.min_action_share),
        min_std=read.number("GATE_MIN_STD", default.min_std, low=0.0, high=0.5),
        min_p10_p90=read.share("GATE_MIN_P10_P90", default.min_p10_p90),
        agreement_required=read.choice("AGREEMENT", "advisory", ("advisory", "required")) == "required",
        min_agreement=read.share("GATE_MIN_AGREEMENT", default.min_agreement),
        max_agreement=read.share("GATE_MAX_AGREEMENT", default.max_agreement),
        borderline_agreement=read.share("GATE_BORDERLINE_AGREEMENT", default.borderline_agreement),
        max_opposition=read.share("GATE_MAX_OPPOSITION", default.max_opposition),
        skill_alpha=read.number("GATE_SKILL_ALPHA", default.skill_alpha, low=1e-9, high=0.2),
        false_promotions_per_year=read.number(
            "GATE_FALSE_PROMOTIONS_PER_YEAR", default.false_promotions_per_year, low=0.0, high=100.0
        ),
        holdout_alpha=read.number("GATE_HOLDOUT_ALPHA", default.holdout_alpha, low=1e-9, high=0.5),
        calibration_alpha=read.number("GATE_CALIBRATION_ALPHA", default.calibration_alpha, low=1e-6, high=0.2),
        ece_tolerance=read.share("GATE_ECE_TOLERANCE", default.ece_tolerance),
        min_calibration_slope=read.share("GATE_MIN_CALIBRATION_SLOPE", default.min_calibration_slope),
        incumbent_margin=read.number("GATE_INCUMBENT_MARGIN", default.incumbent_margin, low=0.0, high=1.0),
        incumbent_alpha=read.number("GATE_INCUMBENT_ALPHA", default.incumbent_alpha, low=1e-6, high=0.5),
        min_slice_rows=read.count("GATE_MIN_SLICE_ROWS", default.min_slice_rows, low=10),
        slice_alpha=read.number("GATE_SLICE_ALPHA", default.slice_alpha, low=1e-6, high=0.2),
        # model.bundle refuses a file with a larger error before any gate sees it
        canary_tolerance=read.number("GATE_CANARY_TOLERANCE", default.canary_tolerance, low=1e-9, high=1e-5),
        hold_on_constant_window=recipe.constant_window is ConstantWindow.HOLD,
        max_constant_input_share=read.share("GATE_MAX_CONSTANT_INPUT_SHARE", default.max_constant_input_share),
    )


def _shadow_policy(read: Reader) -> ShadowPolicy:
    default = ShadowPolicy()
    return ShadowPolicy(
        min_outcomes=read.count("SHADOW_MIN_OUTCOMES", default.min_outcomes),
        hours=read.number("SHADOW_HOURS", default.hours, low=0.0),
        max_hours=read.number("SHADOW_MAX_HOURS", default.max_hours, low=0.0),
        skill_alpha=read.number("SHADOW_SKILL_ALPHA", default.skill_alpha, low=1e-9, high=0.2),
    )


def _probation_policy(read: Reader) -> ProbationPolicy:
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


def _database(read: Reader, db: str | None) -> tuple[Secret, Path | None]:
    url = read.text("DATABASE_URL", "")
    path = read.path("DB_PATH", "/opt/quantum/data/quantum_trader.db")
    if db is not None and "://" not in db:
        url, path = "", Path(db).expanduser().absolute()
    elif db is not None:
        url = db
    if not url:
        return _sqlite_url(path), path
    url = canonical(url)
    if url.startswith("sqlite:///"):
        path = Path(unquote(url.removeprefix("sqlite:///").partition("?")[0], errors="surrogateescape"))
        return _sqlite_url(path), path
    if not is_postgresql(url):
        read.problems.append("DATABASE_URL: the value is neither sqlite:///PATH nor postgresql://...")
        return _sqlite_url(path), path
    return Secret(url), None


def _sqlite_url(path: Path) -> Secret:
    """The URL of a file. Only what SQLAlchemy would interpret is quoted: it decodes quoted bytes as UTF-8."""
    return Secret("sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F"))


def _redis_url(read: Reader, home: Path | None) -> Secret:
    named = any(read.is_given(name) for name in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB"))
    url = read.text("REDIS_URL", "")
    host, port = read.text("REDIS_HOST", "localhost"), read.count("REDIS_PORT", 6379, low=1, high=65535)
    number, password = read.count("REDIS_DB", 0), read.text("REDIS_PASSWORD", "")
    if url and not _is_redis_url(url):
        read.problems.append("REDIS_URL: the value is not redis://host:port/number, rediss://... or unix:///path")
        url = ""
    if url or (home is not None and not named):
        return Secret(url)
    user = f":{quote(password, safe='')}@" if password else ""
    return Secret(f"redis://{user}{host}:{port}/{number}")


def _redis_names(read: Reader) -> RedisNames:
    prefix, instance = read.text("REDIS_PREFIX", DEFAULT_PREFIX), read.text("INSTANCE", "")
    for name, value in (("REDIS_PREFIX", prefix), ("INSTANCE", instance)):
        if value and not NAME.fullmatch(value):
            read.problems.append(f'{name}: "{value}" has other characters than letters, digits and . _ -')
    return RedisNames(prefix=prefix, instance=instance)


def _is_redis_url(url: str) -> bool:
    """Whether `url` has the form of a Redis URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        return False
    return parts.scheme in {"redis", "rediss", "unix"} and port > 0


def _under(home: Path | None, name: str, without_home: Path) -> Path:
    return home / name if home is not None else without_home


def _state_default(environment: Mapping[str, str]) -> str:
    return environment.get("STATE_DIRECTORY", "").split(":")[0] or "/var/lib/quantum-retraining-worker"


def _trigger_default(environment: Mapping[str, str]) -> str:
    return str(_runtime_path(environment) / "engine-restart")


def _runtime_path(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/run/quantum-retraining-worker")
