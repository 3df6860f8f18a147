"""I/O: one module per neighbour (state database, worker process, slot, Redis, systemd, journal)."""
