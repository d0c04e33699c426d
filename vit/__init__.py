"""The Vision Transformer in PyTorch: model, variants, weights, data and training."""
