"""From PyTorch to a bundle of proven engines.

`export/pipeline.py` is the main path: read it first.
"""
