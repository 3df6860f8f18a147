"""Continuous retraining of PatchTST on one systemd host: pull, audit, train, gate, promote.

The packages and what each may import are listed in docs/explanation/architecture.md; import-linter checks the layers.
"""

__version__ = "0.2.0"
