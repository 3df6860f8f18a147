"""What a model is in memory and on disk: the network, its two presets, and the bundle file."""
