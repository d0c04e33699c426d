"""`vit-edge triton`: writes a model repository for Triton Inference Server from a bundle."""
