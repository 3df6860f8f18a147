"""The stages of a run, one idempotent module each, and the ports that they use."""
