"""Pages of runs: measurements on stored predictions, charts, templates. Runs in a worker process only."""
