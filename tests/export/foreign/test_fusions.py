"""Every way of writing LayerNorm, GELU and attention that we met, and some that only look alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from vit_edge.export.foreign.attention import WriteAttention
from vit_edge.export.foreign.batch import make_batch_dynamic
from vit_edge.export.foreign.evaluate import OnnxRunner
from vit_edge.export.foreign.fusions import FuseGelu, FuseLayerNorm
from vit_edge.export.foreign.linears import UnfoldLinears
from vit_edge.export.foreign.static_shapes import RemoveNoOps, fold_static_shapes
from vit_edge.export.foreign.version import convert
from vit_edge.runtime.errors import InputError

from ..graphs import count
from .files import OLD_14, write

HEADER = '<ir_version: 9, opset_import: ["": 20]> g (float[1,5,8] x) => (float[1,5,8] y) <'
WEIGHTS = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
W, B = ("{" + ",".join(map(str, row)) + "}" for row in WEIGHTS.tolist())

LAYER_NORMS = {
    "power and division": "d=Sub(x,m) s=Pow(d,two) v=ReduceMean(s,last) e=Add(v,eps) q=Sqrt(e) "
    "n=Div(d,q) z=Mul(n,w) y=Add(z,b)",
    "square and reciprocal": "d=Sub(x,m) s=Mul(d,d) v=ReduceMean(s,last) e=Add(eps,v) q=Sqrt(e) "
    "r=Reciprocal(q) n=Mul(r,d) z=Mul(w,n) y=Add(b,z)",
    "negative power": "d=Sub(x,m) s=Mul(d,d) v=ReduceMean(s,second) e=Add(v,eps) r=Pow(e,root) "
    "n=Mul(d,r) z=Mul(n,w) y=Add(z,b)",
    "two deviations": "d=Sub(x,m) c=Sub(x,m) s=Pow(c,two) v=ReduceMean(s,last) e=Add(v,eps) "
    "q=Sqrt(e) n=Div(d,q) z=Mul(n,w) y=Add(z,b)",
    "scale before the deviation": "d=Sub(x,m) s=Mul(d,d) v=ReduceMean(s,last) e=Add(v,eps) "
    "q=Sqrt(e) r=Reciprocal(q) k=Mul(r,w) z=Mul(d,k) y=Add(z,b)",
    "TensorFlow": "d=Sub(x,m) s=Mul(d,d) v=ReduceMean(s,last) e=Add(v,eps) q=Sqrt(e) "
    "r=Reciprocal(q) k=Mul(r,w) a=Mul(x,k) f=Mul(m,k) h=Sub(b,f) y=Add(a,h)",
    "no scale, no bias": "d=Sub(x,m) s=Mul(d,d) v=ReduceMean(s,last) e=Add(v,eps) q=Sqrt(e) "
    "y=Div(d,q)",
}
NO_LAYER_NORMS = {
    "unbiased variance": "d=Sub(x,m) s=Mul(d,d) t=ReduceSum(s,last) v=Div(t,seven) e=Add(v,eps) "
    "q=Sqrt(e) y=Div(d,q)",
    "root mean square": "s=Mul(x,x) v=ReduceMean(s,last) e=Add(v,eps) q=Sqrt(e) y=Div(x,q)",
    "other axis": "o=ReduceMean(x,first) d=Sub(x,o) s=Mul(d,d) v=ReduceMean(s,first) e=Add(v,eps) "
    "q=Sqrt(e) y=Div(d,q)",
}
GELUS = {
    "division, half last": "a=Div(x,root2) e=Erf(a) p=Add(e,one) z=Mul(x,p) y=Mul(z,half)",
    "product, half first": "a=Mul(x,over) e=Erf(a) p=Add(one,e) z=Mul(half,x) y=Mul(z,p)",
    "half of the sum": "a=Div(x,root2) e=Erf(a) p=Add(e,one) z=Mul(p,half) y=Mul(x,z)",
    "division by two": "a=Div(x,root2) e=Erf(a) p=Add(e,one) z=Mul(x,p) y=Div(z,two)",
    "tanh of a cube": "c=Pow(x,three) k=Mul(c,cubic) s=Add(x,k) a=Mul(s,slope) t=Tanh(a) "
    "p=Add(t,one) z=Mul(half,x) y=Mul(z,p)",
    "tanh of products": "c=Mul(x,x) k=Mul(cubic,c) p=Add(one,k) u=Mul(slope,x) a=Mul(u,p) "
    "t=Tanh(a) s=Add(one,t) z=Mul(x,s) y=Mul(half,z)",
}
NO_GELUS = {
    "QuickGELU": "a=Mul(x,quick) s=Sigmoid(a) y=Mul(x,s)",
    "no root": "e=Erf(x) p=Add(e,one) z=Mul(x,p) y=Mul(z,half)",
}
CONSTANTS = (
    f"float[8] w={W}, float[8] b={B}, int64[1] last={{-1}}, int64[1] second={{2}}, "
    "int64[1] first={1}, float two={2}, float three={3}, float one={1}, float half={0.5}, "
    "float seven={7}, float eps={1e-5}, float root={-0.5}, float root2={1.41421356}, "
    "float over={0.70710678}, float cubic={0.044715}, float slope={0.79788456}, float quick={1.702}"
)


def graph(body: str) -> ir.Model:
    lines = body.replace(") ", ")\n")
    mean = "m=ReduceMean(x,last)\n" if "m)" in body or "m," in body else ""
    return ir.from_onnx_text(f"{HEADER}{CONSTANTS}> {{\n{mean}{lines}\n}}")


def fused(body: str, change: ir.passes.PassBase) -> tuple[ir.Model, float]:
    """The graph after `change`, and the largest difference that it makes."""
    original, model = graph(body), graph(body)
    fold_static_shapes(model)
    change(model)
    common.RemoveUnusedNodesPass()(model)
    x = np.random.default_rng(1).standard_normal((1, 5, 8)).astype(np.float32) * 3
    (expected,), (got,) = OnnxRunner(original)(x).values(), OnnxRunner(model)(x).values()
    return model, float(np.abs(got - expected).max())


@pytest.mark.parametrize("body", LAYER_NORMS.values(), ids=LAYER_NORMS.keys())
def test_layer_norm_is_fused(body: str) -> None:
    model, error = fused(body, FuseLayerNorm())
    assert count(model) == {"LayerNormalization": 1}
    assert error < 5e-6
    (node,) = model.graph
    assert node.attributes.get_float("epsilon", 0.0) == pytest.approx(1e-5)
    if "w" in body.split("Mul")[-1]:
        assert [str(v.name) for v in node.inputs[1:] if v is not None] == ["w", "b"]


@pytest.mark.parametrize("body", NO_LAYER_NORMS.values(), ids=NO_LAYER_NORMS.keys())
def test_what_is_no_layer_norm_stays(body: str) -> None:
    model, error = fused(body, FuseLayerNorm())
    assert "LayerNormalization" not in count(model)
    assert error == 0


@pytest.mark.parametrize(("name", "body"), GELUS.items(), ids=GELUS.keys())
def test_gelu_is_fused(name: str, body: str) -> None:
    model, error = fused(body, FuseGelu())
    assert count(model) == {"Gelu": 1}
    assert error < 2e-6
    (node,) = model.graph
    assert node.attributes.get_string("approximate", "") == ("tanh" if "tanh" in name else "none")


@pytest.mark.parametrize("body", NO_GELUS.values(), ids=NO_GELUS.keys())
def test_what_is_no_gelu_stays(body: str) -> None:
    model, error = fused(body, FuseGelu())
    assert "Gelu" not in count(model)
    assert error == 0


def _scale_scores(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])


def _scale_queries(q: Tensor, k: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)


def _scale_both(q: Tensor, k: Tensor) -> Tensor:
    root = q.shape[-1] ** -0.25
    return (q * root) @ (k.transpose(-2, -1) * root)


def _stacked(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.reshape(*x.shape[:2], 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0))


def _indexed(x: Tensor) -> tuple[Tensor, ...]:
    heads = x.reshape(*x.shape[:2], 3, 4, 16).permute(2, 0, 3, 1, 4)
    return heads[0], heads[1], heads[2]


def _sliced(x: Tensor) -> tuple[Tensor, ...]:
    parts = (x[..., :64], x[..., 64:128], x[..., 128:])
    return tuple(part.reshape(*x.shape[:2], 4, 16).transpose(1, 2) for part in parts)


def _chunked(x: Tensor) -> tuple[Tensor, ...]:
    parts = x.chunk(3, dim=-1)
    return tuple(part.reshape(*x.shape[:2], 4, 16).permute(0, 2, 1, 3) for part in parts)


class Attention(nn.Module):
    """Self-attention on patches, its heads cut out by `cut`, its scores made by `score`."""

    def __init__(
        self, cut: Callable[..., tuple[Tensor, ...]], score: Callable[..., Tensor]
    ) -> None:
        super().__init__()
        self.cut, self.score = cut, score
        self.patches, self.qkv = nn.Conv2d(3, 64, 8, 8), nn.Linear(64, 192)
        self.head = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        q, k, v = self.cut(self.qkv(x))
        context = self.score(q, k).softmax(-1) @ v
        out: Tensor = self.head(context.transpose(1, 2).reshape(*x.shape[:2], 64)[:, 0])
        return out


def _attention(
    tmp_path: Path, cut: Callable[..., object], score: Callable[..., object]
) -> ir.Model:
    torch.manual_seed(0)
    path = write(Attention(cut, score), tmp_path / "a.onnx", OLD_14, (3, 32, 32))  # type: ignore[arg-type]
    return ir.load(path)


@pytest.mark.parametrize("score", [_scale_scores, _scale_queries, _scale_both])
@pytest.mark.parametrize("cut", [_stacked, _indexed, _sliced, _chunked])
def test_attention_is_written_the_one_way(
    cut: Callable[..., object], score: Callable[..., object], tmp_path: Path
) -> None:
    original, model = (_attention(tmp_path, cut, score) for _ in range(2))
    fold_static_shapes(model)
    convert(model)
    fold_static_shapes(model)
    for change in (RemoveNoOps(), UnfoldLinears(), WriteAttention()):
        change(model)
    common.RemoveUnusedNodesPass()(model)
    found = count(model)
    assert (found["Split"], found["Mul"], found["Div"], found["Slice"]) == (1, 1, 0, 0)
    assert found["Transpose"] == 1 + 3 + 1  # patches; Q, K, V; the heads back
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)
    (expected,), (got,) = OnnxRunner(original)(image).values(), OnnxRunner(model)(image).values()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_a_mask_that_masks_is_kept(tmp_path: Path) -> None:
    mask = torch.triu(torch.full((16, 16), -1e4), 1)

    def masked(q: Tensor, k: Tensor) -> Tensor:
        return _scale_scores(q, k) + mask

    model = _attention(tmp_path, _stacked, masked)
    fold_static_shapes(model)
    convert(model)
    fold_static_shapes(model)
    before = count(model)
    WriteAttention()(model)
    assert count(model) == before


def test_a_constant_shape_follows_the_batch_through_any_axis() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["": 20]> g (float[1,6,4] x) => (float[1,24] y) '
        "<int64[3] to={6,2,2}, int64[4] apart={6,1,2,2}, int64[2] flat={1,24}> {\n"
        "t=Transpose<perm=[1,0,2]>(x)\n a=Reshape(t,apart)\n b=Transpose<perm=[1,0,2,3]>(a)\n"
        "y=Reshape(b,flat)\n}"
    )
    fold_static_shapes(model)
    make_batch_dynamic(model)
    x = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)
    (got,) = OnnxRunner(model)(x).values()
    np.testing.assert_array_equal(got, x.reshape(3, 24))


def test_a_gather_of_all_elements_in_order_is_a_reshape() -> None:
    """PyTorch writes an adaptive average so; its indices hold for one image."""
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["": 20]> g (float[1,4] x) => (float[1,4] y) '
        "<int64[1] flat={4}, int64[1,4,1] all={0,1,2,3}, int64[2] to={1,4}> {\n"
        "a=Reshape(x,flat)\n b=Gather<axis=0>(a,all)\n y=Reshape(b,to)\n}"
    )
    fold_static_shapes(model)
    RemoveNoOps()(model)
    make_batch_dynamic(model)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    (got,) = OnnxRunner(model)(x).values()
    np.testing.assert_array_equal(got, x)


def test_an_output_without_a_batch_is_refused() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["": 20]> g (float[1,6] x) => (float[1,6] y) '
        "<int64[1] axis={0}> { y=ReduceMax(x,axis) }"
    )
    fold_static_shapes(model)
    with pytest.raises(InputError, match="does not follow the batch"):
        make_batch_dynamic(model)
