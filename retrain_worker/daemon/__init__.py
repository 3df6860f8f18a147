"""The process: composition root, schedule, service. No torch, no numpy."""
