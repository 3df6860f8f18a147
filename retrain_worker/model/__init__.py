"""The network, its two presets, and the model file."""
