"""Post-training quantisation of a ViT: its Linears, its attention and a hybrid's convolutions."""
