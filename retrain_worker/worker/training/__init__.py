"""Training: variants, attempts, epochs, calibration, backtest folds, checkpoints."""
