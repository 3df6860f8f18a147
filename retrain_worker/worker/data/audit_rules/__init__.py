"""The rules of the audit: one small function each, under the name of its finding, its limit beside it."""
