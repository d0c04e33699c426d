"""What an engine's builder compiled: layers, what they run in, what they move and cost."""
