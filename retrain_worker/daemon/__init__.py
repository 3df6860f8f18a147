"""The daemon: wiring, the run driver, its jobs, the main loop. No torch, no numpy."""
