"""The worker process: the heavy part of the stages. Started as a program, never imported."""
