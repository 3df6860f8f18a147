"""Continuous retraining of PatchTST on one systemd host: pull, audit, train, gate, promote.

The packages and what each may import are listed in docs/architecture.md; import-linter checks the layers.
"""

__version__ = "0.1.0"
