"""What people need beside the runtime; nothing of the runtime's core imports it."""
