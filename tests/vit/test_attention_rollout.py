from __future__ import annotations

import torch

from vit_edge.vit.attention_rollout import attention_rollout, attention_weights
from vit_edge.vit.vision_transformer import VisionTransformer


def tiny() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=16, patch_size=8, num_classes=3, embed_dim=8, depth=3, n_heads=2
    ).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight)  # attention far from uniform
    return model


def test_rollout_is_the_papers_product_computed_token_by_token() -> None:
    model, images = tiny(), torch.randn(2, 3, 16, 16)
    for index in range(2):
        with torch.no_grad():
            x = model.patch_embed(images[index : index + 1])
            x = torch.cat([model.cls_token, x], dim=1) + model.pos_embed
            product = torch.eye(5)
            for block in model.blocks:
                qkv = block.attn.qkv(block.norm1(x))[0]
                mean = torch.zeros(5, 5)
                for head in range(2):
                    q, k = (qkv[:, p * 8 + head * 4 : p * 8 + head * 4 + 4] for p in (0, 1))
                    for row in range(5):
                        scores = torch.stack([q[row] @ k[c] / 4**0.5 for c in range(5)])
                        mean[row] += scores.softmax(0) / 2
                product = (0.5 * mean + 0.5 * torch.eye(5)) @ product
                x = block(x)
        rollout = attention_rollout(model, images)[index]
        torch.testing.assert_close(rollout, product[0, 1:].reshape(2, 2))


def test_recomputed_weights_are_those_that_the_model_attends_with() -> None:
    model, x = tiny(), torch.randn(2, 5, 8)
    attention = model.blocks[0].attn
    weights = attention_weights(attention, x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))
    values = attention.qkv(x).chunk(3, dim=-1)[2].reshape(2, 5, 2, 4).transpose(1, 2)
    attended = attention.proj((weights @ values).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(attended, attention(x))


def test_model_is_left_as_it_was() -> None:
    model, images = tiny(), torch.randn(1, 3, 16, 16)
    before = model(images)
    attention_rollout(model, images)
    assert torch.equal(model(images), before)
    assert not any(module._forward_pre_hooks for module in model.modules())
