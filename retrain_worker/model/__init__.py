"""The network, its two presets, and the model file: written, read, inspected, exported."""
