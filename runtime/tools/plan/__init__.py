"""Plans of engines: the layers that a builder compiled, their types, bytes and cost."""
