"""Equivalent forms of a graph: the same answers, and the kernels that they are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from tests.export import graphs
from tests.export.graphs import count
from tests.specs import engine_spec
from vit_edge.calibration.collect import Calibration
from vit_edge.calibration.onnx_file import to_bytes
from vit_edge.export.engines import same_outputs
from vit_edge.export.forms import DEFAULT, FORMS, GraphForm, aux_streams, write_in
from vit_edge.export.forms.patches import patches_as_product, quantise_before_layout
from vit_edge.export.forms.qkv import cut_apart, join, saturate
from vit_edge.export.forms.search import Cost, search_form, shorten
from vit_edge.export.graph_edit import array
from vit_edge.export.measure import widen
from vit_edge.export.onnx_export import export_onnx
from vit_edge.export.passes import optimise
from vit_edge.export.precision import PRECISIONS
from vit_edge.runtime.backends import BACKENDS, BuildOptions
from vit_edge.runtime.errors import EngineError
from vit_edge.runtime.manifest import EngineSpec
from vit_edge.runtime.tools.images import ImageSet
from vit_edge.runtime.tools.plan.devices import DEVICES
from vit_edge.runtime.tools.plan.engine_plan import EnginePlan, plan_of
from vit_edge.vit.variants import find_variant
from vit_edge.vit.vision_transformer import VisionTransformer

RTX = BACKENDS["tensorrt-rtx"]
PROBLEM = RTX.build_problem()
needs_rtx = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
SPEC = engine_spec("images", "logits", (32, 32, 3), 10, (8, 8, 8))
CHOICES = [(form, choice) for form, choices in FORMS.items() for choice in choices]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("bf16", "int8_attention", "int4")]


@pytest.fixture(scope="module", params=["fp16", "int8", "nvfp4", *SLOW])
def lowered(
    request: pytest.FixtureRequest, optimised: ir.Model, calibration: Calibration
) -> ir.Model:
    """A precision's graph for GPUs."""
    model = PRECISIONS[request.param].lower(optimised, calibration)["gpu"]
    model.graph.name = request.param
    return model


def run(model: ir.Model, frames: np.ndarray) -> np.ndarray:
    """Its answers in 32 bits: ONNX Runtime has no bf16."""
    return graphs.run(widen(model), frames)


def apart(model: ir.Model) -> ir.Model:
    """As exporters write it whose queries, keys and values are Linears of their own."""
    copy = model.clone()
    assert cut_apart(copy)
    return copy


@pytest.mark.parametrize(("form", "choice"), CHOICES)
def test_every_choice_computes_the_same(
    lowered: ir.Model, frames: np.ndarray, form: str, choice: str
) -> None:
    """But where sums of floats in another order round to other whole numbers."""
    expected = run(lowered, frames)
    changed = run(write_in(lowered, {form: choice}), frames)
    limit = 1e-2 if choice == "product" and count(lowered)["QuantizeLinear"] else 1e-6
    assert np.sqrt(((changed - expected) ** 2).mean()) <= limit * np.ptp(expected)


def test_the_default_form_is_what_is_shipped(lowered: ir.Model) -> None:
    assert write_in(lowered, DEFAULT) is lowered
    clips = [node for node in lowered.graph if node.op_type == "Clip"]
    assert len(clips) == 2, "one for each block's queries, keys and values"
    for clip in clips:
        assert {user.op_type for user in clip.outputs[0].consumers()} == {"Split"}
        bounds = [float(array(v)) for v in clip.inputs[1:] if v]
        largest = {"bf16": 3.3895e38}.get(str(lowered.graph.name), 65504.0)
        assert bounds == pytest.approx([-largest, largest], rel=1e-4)


def test_products_are_cut_and_joined_again(lowered: ir.Model, frames: np.ndarray) -> None:
    expected, cut = run(lowered, frames), apart(lowered)
    assert count(cut)["Split"] == count(cut)["Clip"] == 0
    assert count(cut)["MatMul"] == count(lowered)["MatMul"] + 2 * 2
    np.testing.assert_array_equal(run(cut, frames), expected)
    outputs = {value.name for node in cut.graph for value in node.outputs}
    assert saturate(cut)
    assert count(cut)["Clip"] == count(cut)["Split"] == 2
    assert count(cut)["MatMul"] == count(lowered)["MatMul"]
    np.testing.assert_array_equal(run(cut, frames), expected)
    names = {value.name for node in cut.graph for value in node.outputs}
    assert {name for name in outputs if str(name).endswith("/Add")} <= names, "their names stay"


def test_saturating_twice_changes_nothing(lowered: ir.Model) -> None:
    copy = lowered.clone()
    assert not saturate(copy)
    assert join(copy)
    assert count(copy)["Clip"] == 0
    assert not join(copy)


def test_products_of_different_kinds_are_not_joined(optimised: ir.Model) -> None:
    """One quantised, one not: their weights have no common type."""
    cut = optimised.clone()
    assert cut_apart(cut)
    first = next(n for n in cut.graph if n.op_type == "MatMul" and "qkv" in str(n.name))
    weight = first.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    half = ir.val("half", const_value=ir.tensor(weight.const_value.numpy().astype(np.float16)))
    cut.graph.register_initializer(half)
    first.replace_input_with(1, half)
    before = count(cut)["MatMul"]
    join(cut)
    assert count(cut)["MatMul"] == before - 1 - 2, "two of the first block, three of the second"


def test_patches_of_another_layout_stay_a_convolution(lowered: ir.Model) -> None:
    copy = lowered.clone()
    convolution = next(node for node in copy.graph if node.op_type == "Conv")
    convolution.attributes["strides"] = ir.AttrInt64s("strides", [4, 4])
    assert write_in(copy, {"patches": "product"}) is copy
    assert count(write_in(lowered, {"patches": "product"}))["Conv"] == 0


def small(nodes: str, **constants: np.ndarray) -> ir.Model:
    """A graph from the text of its nodes; `x` is float `[2, 6, 8]`, `y` its output."""
    text = f"""<ir_version: 9, opset_import: ["" : 20]>
    graph (float[2, 6, 8] x) => (y) {{ {nodes} }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run_small(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal((2, 6, 8), np.float32)
    result: np.ndarray = np.concatenate([o.ravel() for o in session.run(None, {"x": x})])
    return result


def weights(*names: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {name: random.standard_normal((8, 8), np.float32) for name in names}


class TestGraphsOfOthers:
    """What other exporters write."""

    bias = np.arange(8, dtype=np.float32)

    def check(self, model: ir.Model, products: int) -> None:
        expected = run_small(model)
        for rewrite in (saturate, join, cut_apart, quantise_before_layout):
            copy = model.clone()
            rewrite(copy)
            np.testing.assert_allclose(run_small(copy), expected, rtol=1e-5, atol=1e-5)
        copy = model.clone()
        saturate(copy)
        assert count(copy)["MatMul"] == products

    def test_one_has_no_bias_and_all_are_far_apart(self) -> None:
        nodes = """q0 = MatMul(x, a) q = Add(q0, b) t = Tanh(q) k = MatMul(x, c)
        s = Mul(t, k) v0 = MatMul(x, d) v = Add(b, v0) y = Add(s, v)"""
        self.check(small(nodes, b=self.bias, **weights("a", "c", "d")), products=1)

    def test_a_bias_of_one_number_stays_an_add(self) -> None:
        nodes = "q0 = MatMul(x, a) q = Add(q0, b) k = MatMul(x, c) y = Add(q, k)"
        self.check(small(nodes, b=self.bias[1:2], **weights("a", "c")), products=1)

    def test_a_product_is_the_output_itself(self) -> None:
        model = small("y = MatMul(x, a) z = MatMul(x, c)", **weights("a", "c"))
        model.graph.outputs.append(
            next(n.outputs[0] for n in model.graph if n.outputs[0].name == "z")
        )
        self.check(model, products=1)

    def test_a_product_that_two_read_before_its_bias_keeps_it_outside(self) -> None:
        nodes = "p = MatMul(x, a) q = Add(p, b) k = MatMul(x, c) s = Mul(p, q) y = Add(s, k)"
        self.check(small(nodes, b=self.bias, **weights("a", "c")), products=1)

    def test_a_cast_before_the_cut_stays(self) -> None:
        nodes = """p = MatMul(x, a) c = Cast <to = 10> (p)
        q, k = Split <axis = -1, num_outputs = 2> (c) m = Mul(q, k) y = Cast <to = 1> (m)"""
        model = small(nodes, **weights("a"))
        expected = run_small(model)
        assert cut_apart(model)
        product = next(node for node in model.graph if node.op_type == "Mul")
        assert [value.dtype for value in product.inputs if value] == [ir.DataType.FLOAT16] * 2
        np.testing.assert_allclose(run_small(model), expected, rtol=2e-3, atol=2e-2)

    def test_what_is_read_unquantised_too_stays_so(self) -> None:
        nodes = """p = MatMul(x, a) t = Transpose <perm = [0, 2, 1]> (p) q = QuantizeLinear(t, s, z)
        d = DequantizeLinear(q, s, z) y = Add(d, t)"""
        constants = {"s": np.array(0.5, np.float32), "z": np.array(0, np.int8)}
        self.check(small(nodes, **constants, **weights("a")), products=1)

    @pytest.mark.parametrize(("side", "fits"), [(6, True), (7, False)])
    def test_patches_that_leave_pixels_over_stay_a_convolution(self, side: int, fits: bool) -> None:
        patches = (side // 2) ** 2
        text = f"""<ir_version: 9, opset_import: ["" : 20]>
        graph (float[2, {side}, {side}, 3] x) => (y) {{
            t = Transpose <perm = [0, 3, 1, 2]> (x) p = Conv <strides = [2, 2]> (t, w)
            r = Reshape(p, flat) y = Transpose <perm = [0, 2, 1]> (r) }}"""
        proto = onnx.parser.parse_model(text)
        constants = {"w": np.ones((4, 3, 2, 2), np.float32), "flat": np.array([2, 4, patches])}
        proto.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
        )
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
        assert patches_as_product(model) is fits


class TestShortened:
    def test_equal_blocks_are_left_out(self, digits_model: VisionTransformer) -> None:
        """Of the digits' four blocks three stay: two, and the last one."""
        fp32 = export_onnx(digits_model, find_variant("vit_digits").preprocess, "logits")
        optimise(fp32)
        short = shorten(fp32, fp32)
        assert count(fp32)["Softmax"] == 4
        assert count(short)["Softmax"] == 3
        frames = np.zeros((2, *find_variant("vit_digits").preprocess.shape), np.uint8)
        assert run(short, frames).shape == (2, 10)

    def test_few_blocks_stay(self, lowered: ir.Model, optimised: ir.Model) -> None:
        assert shorten(lowered, optimised) is lowered


class TestSameAnswers:
    def same(self, one: ir.Model, other: ir.Model, images: ImageSet) -> bool:
        return same_outputs(one, other, images, tolerance=1e-2)

    def test_other_forms_are(self, lowered: ir.Model, photographs: ImageSet) -> None:
        for form, choice in CHOICES:
            assert self.same(lowered, write_in(lowered, {form: choice}), photographs)

    def test_a_wrong_rewrite_is_not(self, lowered: ir.Model, photographs: ImageSet) -> None:
        wrong = write_in(lowered, {"qkv": "apart"})
        add = next(n for n in wrong.graph if n.op_type == "Add" and str(n.name).endswith("/2/Add"))
        bias = next(value for value in add.inputs if value is not None and value.is_initializer())
        bias.const_value = ir.tensor(array(bias)[::-1].copy(), name=bias.name)
        assert not self.same(lowered, wrong, photographs), "values have each other's biases"


def build(model: ir.Model, form: GraphForm, spec: EngineSpec = SPEC) -> EnginePlan:
    content = to_bytes(model)
    options = BuildOptions(external=content.external, max_aux_streams=aux_streams(form))
    return plan_of("rtx", RTX.compile(content.graph, spec, options))


@needs_rtx
class TestKernels:
    """What a real builder makes of the forms."""

    def test_every_quantised_layer_runs_in_its_type(self, lowered: ir.Model) -> None:
        summary = build(lowered, DEFAULT).summary()
        assert (summary.unmet, summary.waits) == ((), 0)
        assert summary.fused_attentions == summary.attentions == 2
        if lowered.graph.name != "int4":  # a single block of scales, as here, is widened before
            assert summary.dequantised == ()

    def test_a_product_that_is_cut_dequantises_its_weights(
        self, optimised: ir.Model, calibration: Calibration
    ) -> None:
        """The form that was shipped once; it is caught, and the search leaves it."""
        model = PRECISIONS["int8"].lower(optimised, calibration)["gpu"]
        together = write_in(model, {"qkv": "together"})
        summary = build(together, DEFAULT).summary()
        assert summary.unmet == ("blocks.0.attn.qkv in fp16",)
        assert summary.dequantised == ("blocks.0.attn.qkv",)
        default = build(model, DEFAULT).summary()
        assert default.kernels < summary.kernels

    def test_one_stream_waits_for_none(self) -> None:
        """A model that is large enough for the library to use several."""
        variant = find_variant("vit_small_patch16_224")
        torch.manual_seed(0)
        model = VisionTransformer.from_config(replace(variant.config, depth=2)).eval()
        graph = export_onnx(model, variant.preprocess, "logits")
        optimise(graph)
        spec = engine_spec("images", "logits", variant.preprocess.shape, 1000, (1, 8, 8))
        waits = [
            build(graph, {**DEFAULT, "streams": choice}, spec).summary().waits
            for choice in FORMS["streams"]
        ]
        assert waits[0] == 0
        assert waits[1] > 0

    def test_the_search_finds_a_form_without_faults(
        self, optimised: ir.Model, calibration: Calibration
    ) -> None:
        model = PRECISIONS["int8"].lower(optimised, calibration)["gpu"]
        found = search_form(model, build, 8, [DEVICES["RTX 4060"]])
        costs = {tuple(trial.form.values()): trial.cost for trial in found.trials}
        best = costs[tuple(found.form.values())]
        assert best is not None
        assert best.faults == 0
        assert found.form["qkv"] != "together"
        tried = {trial.form["qkv"] for trial in found.trials}
        assert tried == {"saturated", "together", "apart"}
        assert all(cost is None or not cost.beats(best) for cost in costs.values())


class TestSearch:
    def test_a_form_that_the_builder_refuses_is_passed_over(self, lowered: ir.Model) -> None:
        def refusing(model: ir.Model, form: GraphForm) -> EnginePlan:
            if form["qkv"] == "saturated":
                raise EngineError("no tactic")
            return EnginePlan("x", (), ())

        found = search_form(lowered, refusing, 8, [])
        assert found.form["qkv"] == "together"
        assert found.trials[0].cost is None

    def test_what_no_form_helps_is_the_builders_own_error(self, lowered: ir.Model) -> None:
        def refusing(model: ir.Model, form: GraphForm) -> EnginePlan:
            raise EngineError("no tactic")

        with pytest.raises(EngineError, match="no tactic"):
            search_form(lowered, refusing, 8, [])

    def test_faults_count_first_and_small_gains_for_nothing(self) -> None:
        assert Cost(0, 2.0, 9).beats(Cost(1, 1.0, 9))
        assert Cost(0, 1.0, 9).beats(Cost(0, 1.1, 9))
        assert not Cost(0, 1.0, 9).beats(Cost(0, 1.001, 9))
        assert Cost(0, None, 8).beats(Cost(0, None, 9))


def test_built_engines_say_which_form_they_have() -> None:
    assert aux_streams(DEFAULT) == 0
    assert aux_streams({"streams": "library's choice"}) is None
