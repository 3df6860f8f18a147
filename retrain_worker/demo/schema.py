"""The eleven tables of the stack's trading database, as its own models create them."""

from __future__ import annotations

#: the one table that holds rows in the field; the other ten are empty there
TRAINING_SAMPLES = "ai_training_samples"

SAMPLE_COLUMNS = (
    "id", "symbol", "timestamp", "run_id", "predicted_action", "prediction_score", "prediction_confidence",
    "model_version", "features", "feature_names", "executed", "execution_side", "entry_price", "entry_quantity",
    "entry_time", "outcome_known", "exit_price", "exit_time", "realized_pnl", "hold_duration_seconds", "target_label",
    "target_class", "created_at", "updated_at",
)  # fmt: skip

TABLES = (
    """CREATE TABLE trade_logs (id INTEGER NOT NULL, symbol VARCHAR, side VARCHAR, qty FLOAT, price FLOAT,
    status VARCHAR, reason VARCHAR, timestamp DATETIME, realized_pnl FLOAT, realized_pnl_pct FLOAT, equity_after FLOAT,
    entry_price FLOAT, exit_price FLOAT, strategy_id VARCHAR, PRIMARY KEY (id))""",
    """CREATE TABLE settings (id INTEGER NOT NULL, api_key VARCHAR, api_secret VARCHAR, PRIMARY KEY (id))""",
    """CREATE TABLE training_tasks (id INTEGER NOT NULL, symbols VARCHAR NOT NULL, "limit" INTEGER NOT NULL,
    status VARCHAR NOT NULL, created_at DATETIME, completed_at DATETIME, details TEXT, PRIMARY KEY (id))""",
    """CREATE TABLE model_training_runs (id INTEGER NOT NULL, version VARCHAR NOT NULL, status VARCHAR NOT NULL,
    started_at DATETIME NOT NULL, completed_at DATETIME, dataset_path VARCHAR, symbol_count INTEGER,
    sample_count INTEGER, feature_count INTEGER, model_path VARCHAR, scaler_path VARCHAR, metrics TEXT, notes TEXT,
    PRIMARY KEY (id), UNIQUE (version))""",
    """CREATE TABLE ai_model_versions (id INTEGER NOT NULL, version_id VARCHAR NOT NULL, model_type VARCHAR NOT NULL,
    file_path VARCHAR NOT NULL, trained_at DATETIME NOT NULL, training_samples INTEGER NOT NULL,
    training_duration_seconds FLOAT, train_accuracy FLOAT, validation_accuracy FLOAT, train_mae FLOAT,
    validation_mae FLOAT, total_predictions INTEGER, correct_predictions INTEGER, live_accuracy FLOAT, total_pnl FLOAT,
    is_active BOOLEAN, replaced_at DATETIME, notes TEXT, PRIMARY KEY (id))""",
    """CREATE TABLE liquidity_runs (id INTEGER NOT NULL, fetched_at DATETIME NOT NULL, universe_size INTEGER NOT NULL,
    selection_size INTEGER NOT NULL, provider_primary VARCHAR(32), status VARCHAR(32) NOT NULL, message TEXT,
    PRIMARY KEY (id))""",
    """CREATE TABLE portfolio_positions (id INTEGER NOT NULL, symbol VARCHAR(24) NOT NULL, quantity FLOAT NOT NULL,
    notional FLOAT NOT NULL, updated_at DATETIME NOT NULL, PRIMARY KEY (id),
    CONSTRAINT uq_portfolio_position_symbol UNIQUE (symbol))""",
    """CREATE TABLE liquidity_snapshots (id INTEGER NOT NULL, run_id INTEGER NOT NULL, rank INTEGER NOT NULL,
    symbol VARCHAR(24) NOT NULL, price FLOAT, change_percent FLOAT, base_volume FLOAT, quote_volume FLOAT,
    market_cap FLOAT, liquidity_score FLOAT NOT NULL, momentum_score FLOAT, aggregate_score FLOAT NOT NULL,
    payload TEXT, PRIMARY KEY (id), CONSTRAINT uq_liquidity_snapshot_symbol UNIQUE (run_id, symbol),
    FOREIGN KEY(run_id) REFERENCES liquidity_runs (id) ON DELETE CASCADE)""",
    """CREATE TABLE portfolio_allocations (id INTEGER NOT NULL, run_id INTEGER NOT NULL, symbol VARCHAR(24) NOT NULL,
    weight FLOAT NOT NULL, score FLOAT NOT NULL, reason TEXT, PRIMARY KEY (id),
    CONSTRAINT uq_portfolio_allocation_symbol UNIQUE (run_id, symbol),
    FOREIGN KEY(run_id) REFERENCES liquidity_runs (id) ON DELETE CASCADE)""",
    """CREATE TABLE execution_journal (id INTEGER NOT NULL, run_id INTEGER, symbol VARCHAR(24) NOT NULL,
    side VARCHAR(8) NOT NULL, target_weight FLOAT NOT NULL, quantity FLOAT NOT NULL, status VARCHAR(16) NOT NULL,
    reason TEXT, error TEXT, created_at DATETIME NOT NULL, executed_at DATETIME, PRIMARY KEY (id),
    FOREIGN KEY(run_id) REFERENCES liquidity_runs (id) ON DELETE SET NULL)""",
    """CREATE TABLE ai_training_samples (id INTEGER NOT NULL, symbol VARCHAR NOT NULL, timestamp DATETIME NOT NULL,
    run_id INTEGER, predicted_action VARCHAR NOT NULL, prediction_score FLOAT NOT NULL,
    prediction_confidence FLOAT NOT NULL, model_version VARCHAR, features TEXT NOT NULL, feature_names TEXT,
    executed BOOLEAN, execution_side VARCHAR, entry_price FLOAT, entry_quantity FLOAT, entry_time DATETIME,
    outcome_known BOOLEAN, exit_price FLOAT, exit_time DATETIME, realized_pnl FLOAT, hold_duration_seconds INTEGER,
    target_label FLOAT, target_class VARCHAR, created_at DATETIME, updated_at DATETIME, PRIMARY KEY (id),
    FOREIGN KEY(run_id) REFERENCES liquidity_runs (id))""",
)

#: made after the rows are in: much faster than keeping them up to date meanwhile
INDEXES = (
    "CREATE INDEX ix_trade_logs_symbol ON trade_logs (symbol)",
    "CREATE INDEX ix_trade_logs_id ON trade_logs (id)",
    "CREATE INDEX ix_settings_id ON settings (id)",
    "CREATE INDEX ix_training_tasks_id ON training_tasks (id)",
    "CREATE INDEX ix_model_training_runs_id ON model_training_runs (id)",
    "CREATE UNIQUE INDEX ix_ai_model_versions_version_id ON ai_model_versions (version_id)",
    "CREATE INDEX ix_liquidity_runs_fetched_at ON liquidity_runs (fetched_at)",
    "CREATE INDEX ix_liquidity_runs_id ON liquidity_runs (id)",
    "CREATE INDEX ix_portfolio_positions_symbol ON portfolio_positions (symbol)",
    "CREATE INDEX ix_liquidity_snapshots_run_id ON liquidity_snapshots (run_id)",
    "CREATE INDEX ix_liquidity_snapshots_symbol ON liquidity_snapshots (symbol)",
    "CREATE INDEX ix_portfolio_allocations_run_id ON portfolio_allocations (run_id)",
    "CREATE INDEX ix_portfolio_allocations_symbol ON portfolio_allocations (symbol)",
    "CREATE INDEX ix_execution_journal_run_id ON execution_journal (run_id)",
    "CREATE INDEX ix_execution_journal_symbol ON execution_journal (symbol)",
    "CREATE INDEX ix_ai_training_samples_timestamp ON ai_training_samples (timestamp)",
    "CREATE INDEX ix_ai_training_samples_symbol ON ai_training_samples (symbol)",
)
