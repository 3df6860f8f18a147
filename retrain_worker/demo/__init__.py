"""A simulated market whose best possible AUC is known, and a stand-in for the engine that trades on it."""
