"""What happens: one light, idempotent module per Stage. No library, no adapter, no settings."""
