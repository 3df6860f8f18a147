"""The worker process: the heavy part of the stages, one process each. Started as a program, never imported."""
