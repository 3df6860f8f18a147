"""From the table to a frozen, audited window of it."""
