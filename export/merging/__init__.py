"""Token merging: similar tokens of an image become one, so that later blocks have less to compute.

Source: D. Bolya et al., "Token Merging: Your ViT But Faster", arXiv 2210.09461. It is lossy, so it
is a separate precision, made from the graphs of another one and likewise proven against PyTorch.
"""
