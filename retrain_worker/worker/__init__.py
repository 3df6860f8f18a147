"""The worker process: the heavy part of the stages. Started as a program, never imported."""

import os

# Polars reads the features of the CPU by code that it writes first, which MemoryDenyWriteExecute= forbids. Without this
# check, a CPU that lacks one ends the worker with SIGILL, which the daemon reports.
os.environ.setdefault("POLARS_SKIP_CPU_CHECK", "1")
# pages are small, and every thread takes its share of the worker's memory limit
os.environ.setdefault("POLARS_MAX_THREADS", "2")
