"""The import path of the original usage example."""

from vit_edge.vit.vision_transformer import VisionTransformer as VisionTransformer
