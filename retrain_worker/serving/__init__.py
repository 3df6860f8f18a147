"""For those who react: typed events, and a model that keeps itself current."""
