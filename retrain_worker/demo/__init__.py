"""A simulated market whose Bayes-optimal AUC is known, and a stand-in for the engine."""
