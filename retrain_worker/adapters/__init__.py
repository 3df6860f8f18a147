"""Where it touches the world: one neighbour each."""
