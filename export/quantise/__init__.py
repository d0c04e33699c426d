"""Post-training quantisation of a ViT's Linears: where, what is moved first, on which grid."""
