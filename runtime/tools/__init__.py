"""Tools that people need beside the runtime, whose core imports none of them."""
