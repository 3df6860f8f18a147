"""The table of settings: names, types, defaults and limits, read into one frozen `Settings`.

What a policy value means is documented at its owner in domain/. `etc/quantum/retraining-worker.env` lists every name
with its default; a test compares the two.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from retrain_worker.domain.confirmation import Confirm, Quorum, Unconfirmed, quorum_of
from retrain_worker.domain.connection_url import has_password, problem_of_models_url, requoted
from retrain_worker.domain.data_policy import DataPolicy
from retrain_worker.domain.database_url import canonical, is_postgresql, sqlite_path
from retrain_worker.domain.gates import GatePolicy, GateProfile
from retrain_worker.domain.host_names import HostNames
from retrain_worker.domain.lifecycle import Outcome
from retrain_worker.domain.probation import ProbationPolicy
from retrain_worker.domain.recipe import ConstantWindow, Recipe
from retrain_worker.domain.redis_names import DEFAULT_PREFIX, NAME, RedisNames
from retrain_worker.domain.rollout import stages_of
from retrain_worker.domain.shadow_trial import ShadowPolicy
from retrain_worker.domain.split_policy import SplitPolicy
from retrain_worker.domain.state_place import MAX_SCHEMA_BYTES, StatePlace
from retrain_worker.domain.upload_request import credentials_in
from retrain_worker.errors import SettingsError, install_extra
from retrain_worker.settings.names import with_current_names
from retrain_worker.settings.reader import Reader

#: share of the samples that holdout and validation may take together
_MAX_HELD_OUT = 0.8
_MIN_WORKER_MEMORY_MB = 512
#: every outcome that ends a run with something to know
_NOTIFY_ON = (Outcome.PROMOTED, Outcome.REFUSED, Outcome.FAILED, Outcome.ABANDONED, Outcome.ROLLED_BACK)
_REDIS_SCHEMES = ("redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://", "unix://")
#: setting -> the option of redis-py in a URL
_REDIS_TLS = {"REDIS_CA": "ssl_ca_certs", "REDIS_CERT": "ssl_certfile", "REDIS_KEY": "ssl_keyfile"}
#: a mistyped URL, or keywords of libpq
_MAY_HOLD_PASSWORD = re.compile(r"(?i)^(postgres|pgsql|psql)|pass(word|wd)?\s*=|:[^/]*@")


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
    #: a PostgreSQL database that holds the state; may hold a password; empty: a file in `state_path`
    state_url: Secret
    model_path: Path
    checkpoint_path: Path
    engine_models_dir: Path
    engine_env_file: Path
    engine_trigger_file: Path
    engine_unit: str
    engine_user: str
    engine_confirm: Confirm
    #: of ENGINE_CONFIRM=event:N
    engine_confirm_quorum: Quorum
    #: names or patterns of the followers whose acknowledgements count; none: any
    engine_confirm_consumers: tuple[str, ...]
    engine_confirm_seconds: float
    unconfirmed: Unconfirmed
    #: where promoted models are copied for followers on other hosts; empty: nowhere
    models_url: str
    #: stages of a promotion before the slot names the model; none: no rollout
    rollout: tuple[Quorum, ...]
    rollout_stage_seconds: float
    #: NAME=VALUE pairs for the library of that URL
    models_credentials: Secret
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
    #: words of the command that starts the worker of TRAIN; none: it is started as a child process
    train_launcher: tuple[str, ...]
    max_retries: int
    #: None: no file of metrics
    metrics_file: Path | None
    #: 0: no metrics over HTTP
    metrics_port: int
    #: Apprise URLs, separated by blanks, which hold passwords; empty: nothing is sent
    notify_urls: Secret
    notify_on: tuple[Outcome, ...]
    #: http(s):// or file:; it may hold a password; empty: nothing is logged
    mlflow_tracking_uri: Secret
    log_level: str
    log_format: str
    #: with which promotions are signed; empty: they are not, or `signing_key_file` holds it
    signing_key: Secret
    signing_key_file: Path | None
    #: with which a signature may have been made
    model_public_keys: tuple[str, ...]
    #: a rollback and the restart of the engine take signed models only
    are_signed_models_required: bool
    data: DataPolicy
    split: SplitPolicy
    recipe: Recipe
    gate: GatePolicy
    shadow: ShadowPolicy
    probation: ProbationPolicy
    trial_interval_minutes: float
    #: the directory that holds everything this program writes, when --home is given
    home: Path | None
    #: defaults of files and directories, and the units
    host_names: HostNames
    #: the name of every setting, with its default as text
    names: Mapping[str, str] = field(repr=False)
    #: the name of every setting, with the text of the value in force
    values: Mapping[str, str] = field(repr=False, compare=False)
    #: one message for each deprecated name or value that was given
    deprecations: tuple[str, ...]

    @property
    def state_place(self) -> StatePlace:
        """Where the state is."""
        return StatePlace(
            file=self.state_path / "state.db", url=str(self.state_url), instance=self.redis_names.instance
        )

    @property
    def worker_memory_bytes(self) -> int:
        """Memory limit of one worker process; 0: none."""
        return self.worker_memory_mb * 2**20


def load(
    environment: Mapping[str, str],
    *,
    home: Path | None = None,
    db: str | None = None,
    host_names: HostNames | None = None,
    on_problem: Callable[[str], None] | None = None,
) -> Settings:
    """Read the settings from `environment`. Raises SettingsError, which names every problem.

    With `on_problem`, which gets each problem, nothing is raised: a setting with an invalid value has its default.

    With `home`, everything that is written is under it, except the engine's env file when ENGINE_ENV_FILE names one.
    `db` (a path or a URL) overrides DB_PATH and DATABASE_URL. `host_names`: of an instance of the template unit.
    """
    host = host_names or HostNames()
    current = with_current_names(environment)
    read = Reader(current.environment)
    database_url, database_path = _database(read, db)
    recipe = _recipe(read)
    engine_confirm, quorum = _engine_confirm(read)
    settings = Settings(
        retrain_interval_hours=read.number("RETRAIN_INTERVAL_H", 24.0, low=0.001, high=24.0 * 365),
        database_url=database_url,
        database_path=database_path,
        redis_url=_redis_url(read, home),
        redis_names=_redis_names(read, host.instance),
        state_path=read.path("STATE_PATH", _state_default(environment, host), instead=_below(home, "state")),
        state_url=_state_url(read),
        model_path=read.path("MODEL_PATH", host.model_path, instead=_below(home, "models")),
        checkpoint_path=read.path("CHECKPOINT_PATH", host.checkpoint_path, instead=_below(home, "checkpoints")),
        engine_models_dir=read.path("ENGINE_MODELS_DIR", host.engine_models_dir, instead=_below(home, "engine/models")),
        engine_env_file=read.path(
            "ENGINE_ENV_FILE", str(home / "engine/ai-engine.env") if home else host.engine_env_file
        ),
        engine_trigger_file=read.path(
            "ENGINE_TRIGGER_FILE", _trigger_default(environment, host), instead=_below(home, "engine/restart-requested")
        ),
        engine_unit=read.text("ENGINE_UNIT", host.engine_unit),
        engine_user=read.text("ENGINE_USER", ""),
        engine_confirm=engine_confirm,
        engine_confirm_quorum=quorum,
        engine_confirm_consumers=_listed(read, "ENGINE_CONFIRM_CONSUMERS"),
        engine_confirm_seconds=read.number("ENGINE_CONFIRM_TIMEOUT_S", 15.0 if home else 120.0, low=0.0, high=86400.0),
        unconfirmed=read.member("UNCONFIRMED", Unconfirmed.KEEP),
        models_url=_models_url(read),
        models_credentials=_models_credentials(read),
        rollout=_rollout(read),
        rollout_stage_seconds=read.number("ROLLOUT_STAGE_S", 60.0, low=0.0, high=86400.0),
        event_aliases=read.flag("EVENT_ALIASES", default=True),
        allow_live_swap=read.flag("ALLOW_LIVE_SWAP", default=False),
        bookkeeping=read.flag("BOOKKEEPING", default=True) and home is None,
        train_while_paused=read.flag("TRAIN_WHILE_PAUSED", default=False),
        keep_runs=read.count("KEEP_RUNS", 10, low=1),
        keep_models=read.count("KEEP_MODELS", 10, low=2),
        stage_deadline_minutes=read.number("STAGE_DEADLINE_MIN", 120.0, low=0.1),
        worker_memory_mb=read.count("WORKER_MEMORY_MB", 0),
        worker_nice=read.count("WORKER_NICE", 10, high=19),
        train_launcher=_launcher(read),
        max_retries=read.count("MAX_RETRIES", 3),
        metrics_file=read.optional_path("METRICS_FILE"),
        metrics_port=read.count("METRICS_PORT", 0, high=65535),
        notify_urls=Secret(read.text("NOTIFY_URLS", "")),
        notify_on=read.members("NOTIFY_ON", _NOTIFY_ON),
        mlflow_tracking_uri=Secret(read.text("MLFLOW_TRACKING_URI", "")),
        signing_key=Secret(read.text("SIGNING_KEY", "")),
        signing_key_file=Path(key_file) if (key_file := read.text("SIGNING_KEY_FILE", "")) else None,
        model_public_keys=tuple(read.text("MODEL_PUBLIC_KEYS", "").replace(",", " ").split()),
        are_signed_models_required=read.choice("SIGNED_MODELS", "off", ("off", "required")) == "required",
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
        host_names=host,
        names=read.defaults,
        values=read.values,
        deprecations=current.deprecations,
    )
    problems = (*read.problems, *current.problems, *_contradictions(settings))
    if on_problem is not None:
        for problem in problems:
            on_problem(problem)
    elif problems:
        raise SettingsError(problems)
    return settings


def reload_answer_path(environment: Mapping[str, str], *, home: Path | None, host_names: HostNames) -> Path:
    """The file in which the daemon leaves the result of a reload; it depends on no setting."""
    return home / "state/reload.json" if home is not None else _runtime_path(environment, host_names) / "reload.json"


def _contradictions(settings: Settings) -> list[str]:
    """Problems of values that are valid alone but exclude each other."""
    gate, shadow, split, probation = settings.gate, settings.shadow, settings.split, settings.probation
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
            probation.is_on and probation.resolution <= probation.margin,
            "PROBATION_RESOLUTION is not greater than PROBATION_MARGIN: no probation could ever decide",
        ),
        (
            split.holdout_share + split.validation_share > _MAX_HELD_OUT,
            f"HOLDOUT_SHARE and VALIDATION_SHARE leave less than {1 - _MAX_HELD_OUT:.0%} of the rows to train on",
        ),
        (
            bool(settings.state_url) and len(settings.state_place.schema.encode()) > MAX_SCHEMA_BYTES,
            f"INSTANCE is too long for STATE_URL: PostgreSQL cuts names at {MAX_SCHEMA_BYTES} bytes",
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
        feature_names=_listed(read, "FEATURE_NAMES"),
    )


def _launcher(read: Reader) -> tuple[str, ...]:
    text = read.text("TRAIN_LAUNCHER", "local")
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        read.problems.append(f'TRAIN_LAUNCHER: "{text}" is not a command line ({error})')
        return ()
    return () if words == ("local",) else words


def _listed(read: Reader, name: str) -> tuple[str, ...]:
    """The values between commas."""
    return tuple(value.strip() for value in read.text(name, "").split(",") if value.strip())


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
    search_trials = read.count("SEARCH_TRIALS", default.search_trials, high=1000)
    if search_trials and find_spec("optuna") is None:
        read.problems.append(f"SEARCH_TRIALS needs the extra search ({install_extra('search')})")
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
        seed=read.count("SEED", default.seed),
        threads=read.count("TRAIN_THREADS", default.threads, high=1024),
        precision=read.member("PRECISION", default.precision),
        device=read.choice("DEVICE", default.device, ("auto", "cpu", "cuda")),
        search_trials=search_trials,
        search_minutes=read.number("SEARCH_MINUTES", default.search_minutes, low=0.0),
    )


def _gate_policy(read: Reader, recipe: Recipe) -> GatePolicy:
    profile = read.member("GATE_PROFILE", GateProfile.SEED)
    default = GatePolicy() if profile is GateProfile.SEED else replace(GatePolicy(), min_std=0.02, min_p10_p90=0.05)
    return GatePolicy(
        profile=profile,
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
        gain_alpha=read.number("GATE_GAIN_ALPHA", default.gain_alpha, low=1e-9, high=0.5),
        calibration_alpha=read.number("GATE_CALIBRATION_ALPHA", default.calibration_alpha, low=1e-6, high=0.2),
        slope_alpha=read.number("GATE_SLOPE_ALPHA", default.slope_alpha, low=1e-6, high=0.5),
        ece_tolerance=read.share("GATE_ECE_TOLERANCE", default.ece_tolerance),
        min_calibration_slope=read.share("GATE_MIN_CALIBRATION_SLOPE", default.min_calibration_slope),
        incumbent_margin=read.number("GATE_INCUMBENT_MARGIN", default.incumbent_margin, low=0.0, high=1.0),
        incumbent_alpha=read.number("GATE_INCUMBENT_ALPHA", default.incumbent_alpha, low=1e-6, high=0.5),
        min_gain=read.number("GATE_MIN_GAIN", default.min_gain, low=0.0, high=1.0),
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
        max_hours=read.number("PROBATION_MAX_HOURS", default.max_hours, low=0.0),
        resolution=read.number("PROBATION_RESOLUTION", default.resolution, low=0.0, high=10.0),
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
        if _MAY_HOLD_PASSWORD.search(db) and not path.exists():
            read.problems.append("--db: the value is neither a file nor sqlite:///PATH nor postgresql://...")
    elif db is not None:
        url = db
        if has_password(db):
            read.problems.append("--db: other users can read a password on a command line; set DATABASE_URL instead")
    if db is not None:
        read.values |= {"DATABASE_URL": url, "DB_PATH": str(path)}
    if not url:
        return _sqlite_url(path), path
    try:
        url = canonical(url)
    except ValueError as error:
        read.problems.append(f"DATABASE_URL: the value is {error}")
        return _sqlite_url(path), path
    if url.startswith("sqlite:///"):
        path = Path(sqlite_path(url))
        return _sqlite_url(path), path
    if not is_postgresql(url):
        read.problems.append("DATABASE_URL: the value is neither sqlite:///PATH nor postgresql://...")
        return _sqlite_url(path), path
    return Secret(url), None


def _state_url(read: Reader) -> Secret:
    try:
        url = canonical(read.text("STATE_URL", ""))
    except ValueError as error:
        read.problems.append(f"STATE_URL: the value is {error}")
        return Secret()
    if url and not is_postgresql(url):
        read.problems.append("STATE_URL: the value is not postgresql://...")
        return Secret()
    return Secret(url)


def _sqlite_url(path: Path) -> Secret:
    """The URL of a file. Only what SQLAlchemy would interpret is quoted: it decodes quoted bytes as UTF-8."""
    return Secret("sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F"))


def _redis_url(read: Reader, home: Path | None) -> Secret:
    named = any(read.is_given(name) for name in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB"))
    url = read.text("REDIS_URL", "")
    host, port = read.text("REDIS_HOST", "localhost"), read.count("REDIS_PORT", 6379, low=1, high=65535)
    number, password = read.count("REDIS_DB", 0), read.text("REDIS_PASSWORD", "")
    try:
        url = requoted(url) if url else ""
    except ValueError as error:
        read.problems.append(f"REDIS_URL: the value is {error}")
        url = ""
    if url and not url.startswith(_REDIS_SCHEMES):
        read.problems.append(
            "REDIS_URL: the value is not redis://host:port/number, rediss://..., redis+sentinel://... or unix:///path"
        )
        url = ""
    files = [(option, read.optional_path(name)) for name, option in _REDIS_TLS.items()]
    tls = "&".join(f"{option}={quote(str(path))}" for option, path in files if path is not None)
    if tls and not url.startswith("rediss"):
        read.problems.append(
            "REDIS_CA, REDIS_CERT, REDIS_KEY: TLS needs a REDIS_URL of rediss:// or rediss+sentinel://"
        )
    elif tls:
        url += f"{'&' if '?' in url else '?'}{tls}"
    if url or (home is not None and not named):
        return Secret(url)
    user = f":{quote(password, safe='')}@" if password else ""
    return Secret(f"redis://{user}{host}:{port}/{number}")


def _engine_confirm(read: Reader) -> tuple[Confirm, Quorum]:
    """ENGINE_CONFIRM; with event:N also how many followers."""
    given = read.text("ENGINE_CONFIRM", Confirm.AUTO)
    kind, separator, number = given.partition(":")
    if not separator or kind.strip().lower() != Confirm.EVENT:
        return read.member("ENGINE_CONFIRM", Confirm.AUTO), Quorum()
    try:
        return Confirm.EVENT, quorum_of(number)
    except ValueError as error:
        read.problems.append(f"ENGINE_CONFIRM: {error}")
        return Confirm.EVENT, Quorum()


def _rollout(read: Reader) -> tuple[Quorum, ...]:
    try:
        return stages_of(read.text("ROLLOUT", ""))
    except ValueError as error:
        read.problems.append(f"ROLLOUT: {error}")
        return ()


def _models_url(read: Reader) -> str:
    url = read.text("MODELS_URL", "")
    problem = problem_of_models_url(url) if url else ""
    if not problem and url.startswith("http"):
        problem = "http(s) is for reading: name what the server publishes, as file:///srv/models or s3://bucket/folder"
    if problem:
        read.problems.append(f"MODELS_URL: {problem}")
        read.values["MODELS_URL"] = url = ""
    return url


def _models_credentials(read: Reader) -> Secret:
    text = read.text("MODELS_CREDENTIALS", "")
    try:
        credentials_in(text)
    except ValueError as error:
        read.problems.append(f"MODELS_CREDENTIALS: {error}")
        text = ""
    return Secret(text)


def _redis_names(read: Reader, default_instance: str) -> RedisNames:
    prefix, instance = read.text("REDIS_PREFIX", DEFAULT_PREFIX), read.text("INSTANCE", default_instance)
    for name, value in (("REDIS_PREFIX", prefix), ("INSTANCE", instance)):
        if value and not NAME.fullmatch(value):
            read.problems.append(f'{name}: "{value}" has other characters than letters, digits and . _ -')
    return RedisNames(prefix=prefix, instance=instance)


def _below(home: Path | None, name: str) -> Path | None:
    return home / name if home is not None else None


def _state_default(environment: Mapping[str, str], host: HostNames) -> str:
    return environment.get("STATE_DIRECTORY", "").split(":")[0] or host.state_path


def _trigger_default(environment: Mapping[str, str], host: HostNames) -> str:
    return str(_runtime_path(environment, host) / "engine-restart")


def _runtime_path(environment: Mapping[str, str], host: HostNames) -> Path:
    return Path(environment.get("RUNTIME_DIRECTORY", "").split(":")[0] or host.runtime_path)
