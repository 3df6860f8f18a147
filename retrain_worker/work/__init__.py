"""The child: the heavy part of the stages, one process for each. Started as a program, never imported by the daemon."""
