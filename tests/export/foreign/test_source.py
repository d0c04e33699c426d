"""Files that cannot be used are refused before any work, by name, and never with a traceback."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from vit_edge.export.foreign.rebuild import rebuild, require_same, require_vit
from vit_edge.export.foreign.source import find_foreign_source, prepare
from vit_edge.export.plan import ExportRequest, make_plan
from vit_edge.runtime.errors import InputError
from vit_edge.runtime.outputs import OutputSpec
from vit_edge.runtime.tools.cli import main
from vit_edge.vit.hints import ModelHints
from vit_edge.vit.vision_transformer import VisionTransformer

from ..graphs import count
from .files import FACTS, NEW_20_DYNAMIC, OLD_14, write

IMAGE, OUT = "float[batch,3,4,4] x", "float[batch,5] y"
HEAD = "t=ReduceMean<keepdims=0>(x,axes) y=MatMul(t,w)"
CONSTANTS = (
    "int64[2] axes={2,3}, int64[1] zero={0}, float one={1}, uint8 origin={128}, "
    "float[3,5] w={1,2,3,4,5,6,7,8,9,1,2,3,4,5,6}"
)


def save(
    path: Path,
    body: str = HEAD,
    inputs: str = IMAGE,
    outputs: str = OUT,
    constants: str = CONSTANTS,
    domains: str = "",
) -> Path:
    header = f'<ir_version: 9, opset_import: ["": 20{domains}]> g ({inputs}) => ({outputs})'
    text = f"{header} <{constants}> {{ {body} }}"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def _use(path: Path) -> None:
    source = find_foreign_source(path, FACTS)
    rebuild(prepare(path), source.preprocess)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        _use(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plain_file_is_taken(file: Path) -> None:
    source = find_foreign_source(save(file), FACTS)
    assert (source.classes, source.preprocess.shape, source.name) == (5, (4, 4, 3), "model")
    assert source.assumed == ("interpolation bicubic", "crop 0.9", "crop mode center")
    assert source.facts["opset"] == 20
    assert source.facts["sha256"] == source.weights_key


@pytest.mark.parametrize("asked", [{"features": None}, {"y": "embedding"}])
def test_the_kind_of_an_output_is_given(file: Path, asked: dict[str, str | None]) -> None:
    source = find_foreign_source(save(file), FACTS, asked)
    assert (source.outputs, source.classes) == ((OutputSpec("y", "embedding", (5,)),), 0)
    assert any("(given)" in note for note in source.notes)


def test_all_outputs_are_exported_with_their_kinds(file: Path) -> None:
    body = (
        "t=ReduceMean<keepdims=0>(x,axes) logits=MatMul(t,w) pooler_output=Identity(t) "
        "p=Softmax(logits) depth=Relu(x) score=ReduceMax<keepdims=0>(t,last)"
    )
    outputs = (
        "float[batch,5] logits, float[batch,3] pooler_output, float[batch,5] p, "
        "float[batch,3,4,4] depth, float[batch] score"
    )
    path = save(file, body=body, outputs=outputs, constants=f"{CONSTANTS}, int64[1] last={{1}}")
    kinds = {o.name: o.kind for o in find_foreign_source(path, FACTS).outputs}
    assert kinds == {
        "logits": "logits",
        "pooler_output": "embedding",
        "p": "probabilities",
        "depth": "map",
        "score": "value",
    }
    rebuilt = prepare(path)
    rebuild(rebuilt, find_foreign_source(path, FACTS).preprocess)
    assert [output.name for output in rebuilt.graph.outputs] == list(kinds)
    assert require_same(prepare(path), rebuilt, find_foreign_source(path, FACTS).preprocess) < 1e-5


def test_outputs_that_are_left_out_are_said(file: Path) -> None:
    body = "t=ReduceMean<keepdims=0>(x,axes) logits=MatMul(t,w) best=ArgMax(logits)"
    outputs = "float[batch,5] logits, int64[1,5] best"
    source = find_foreign_source(save(file, body=body, outputs=outputs), FACTS)
    assert [output.name for output in source.outputs] == ["logits"]
    (note,) = [note for note in source.notes if note.startswith("left out")]
    assert "best [1, 5]: it is of the type int64" in note
    body = "t=ReduceMean<keepdims=0>(x,axes) logits=MatMul(t,w) pooled=Identity(t)"
    outputs = "float[batch,5] logits, float[batch,3] pooled"
    path = save(file, body=body, outputs=outputs)
    source = find_foreign_source(path, FACTS, {"pooled": None})
    assert [output.name for output in source.outputs] == ["pooled"]
    assert "logits [1, 5]: --output does not name it" in source.notes[-1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inputs": "float[batch,3,height,4] x"}, "say with --image-size"),
        ({"inputs": "float[7,3,4,4] x", "outputs": "float[7,5] y"}, "7 images at a time"),
        ({"inputs": "float[batch,4,4,3] x"}, "with 1 or 3 channels"),
        ({"inputs": "double[batch,3,4,4] x"}, "float32 or uint8 is expected"),
        ({"inputs": f"{IMAGE}, float[batch,5] tokens"}, "without tokens"),
        ({"inputs": "float[batch,3] x", "body": "y=MatMul(x,w)"}, "of four dimensions"),
        (
            {"body": "y=ReduceMean<keepdims=0>(x,zero)", "outputs": "float[3,4,4] y"},
            "y [3, 4, 4]: its first axis is not that of the images",
        ),
        (
            {"body": "t=ReduceMean<keepdims=0>(x,axes) y=vendor.FusedMatMul(t,w)",
             "domains": ', "vendor": 1'},
            "outside ONNX (vendor.FusedMatMul)",
        ),
        (
            {"body": "q=QuantizeLinear(x,one,origin) d=DequantizeLinear(q,one,origin) "
             "t=ReduceMean<keepdims=0>(d,axes) y=MatMul(t,w)"},
            "quantised already (DequantizeLinear, QuantizeLinear)",
        ),
        ({"constants": f"{CONSTANTS}, float16 half={{1}}"}, "in 16 bits (half"),
        ({"body": "t=ReduceMean<keepdims=0>(x,axes) y=Reshape(t,w)"}, "ONNX Runtime refuses"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_used_is_named(changes: dict[str, str], named: str, file: Path) -> None:
    assert named in refusal(save(file, **changes))


def test_branches_on_the_image_are_refused(file: Path) -> None:
    body = (
        "t=ReduceMean<keepdims=0>(x,axes) s=ReduceMax<keepdims=0>(t) c=Greater(s,one) "
        "f=If(c)<then_branch=g1 () => (float[batch,3] a) { a=Neg(t) }, "
        "else_branch=g2 () => (float[batch,3] b) { b=Identity(t) }> y=MatMul(f,w)"
    )
    assert "control flow that depends on the image (If)" in refusal(save(file, body))


def test_a_file_that_mixes_images_is_refused(file: Path) -> None:
    """Softmax over the batch is 1 for one image, and something else for three."""
    save(file, "t=ReduceMean<keepdims=0>(x,axes) s=MatMul(t,w) p=Softmax<axis=0>(s) y=Mul(p,s)")
    source, model = find_foreign_source(file, FACTS), prepare(file)
    rebuild(model, source.preprocess)
    with pytest.raises(InputError, match="cannot be rewritten"):
        require_same(prepare(file), model, source.preprocess)


def test_a_model_without_linears_is_no_vit(file: Path) -> None:
    source, model = find_foreign_source(save(file), FACTS), prepare(file)
    rebuild(model, source.preprocess)
    with pytest.raises(InputError, match="a vision transformer or a hybrid"):
        require_vit(model)


@pytest.mark.parametrize("bytes_kept", [0, 10, 100])
def test_a_damaged_file_is_refused(bytes_kept: int, file: Path) -> None:
    file.write_bytes(save(file).read_bytes()[:bytes_kept])
    assert "ONNX" in refusal(file)


def test_files_that_are_no_onnx_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a model at all\n" * 20)
    assert "no ONNX file" in refusal(tmp_path / "missing.onnx")
    assert "no ONNX file" in refusal(tmp_path)
    assert "ONNX" in refusal(tmp_path / "text")


@pytest.fixture
def external(model: VisionTransformer, tmp_path: Path) -> Path:
    """A file whose weights lie beside it."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "model.onnx"
    loaded = onnx.load(write(model, tmp_path / "whole.onnx", OLD_14, (3, 32, 32)))
    onnx.save(loaded, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_weights_beside_the_file_are_read_and_hashed(external: Path) -> None:
    source = find_foreign_source(external, FACTS)
    weights = external.parent / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert find_foreign_source(external, FACTS).weights_key != source.weights_key
    with pytest.raises(InputError, match="changed while"):
        source.read_again()


@pytest.mark.parametrize("where", ["../weights.bin", "{outside}/weights.bin", "link", "missing"])
def test_weights_outside_the_folder_are_refused(where: str, external: Path) -> None:
    outside = external.parent.parent
    os.rename(external.parent / "weights.bin", outside / "weights.bin")
    (external.parent / "link").symlink_to(outside / "weights.bin")
    proto = onnx.load(external, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = where.format(outside=outside)
    external.write_bytes(proto.SerializeToString())
    assert "model.onnx" in refusal(external)


def test_weights_that_are_cut_short_are_refused(external: Path) -> None:
    weights = external.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cut short" in refusal(external)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("model", "vit_tiny_patch16_224", "MODEL"),
        ("weights", "w", "--weights"),
        ("config", Path("c"), "--config"),
        ("facts", ModelHints(mean=(0.5,), std=(0.5,)), "--mean and --std, --crop"),
        ("facts", replace(FACTS, std=(0.0, 0.0, 0.0)), "--mean and --std, --crop"),
        ("facts", ModelHints(n_heads=3, norm_eps=1e-6), "--heads, --norm-eps: fixed"),
        ("facts", ModelHints(img_size=(64, 32)), "--image-size says 64 x 32: leave it out"),
        ("facts", ModelHints(labels=("cat", "dog")), "--labels has 2 names"),
        ("outputs", {"tokens": None}, "--output tokens: the model puts out y"),
    ],
)
def test_options_that_do_not_go_with_a_file_are_refused(
    option: str, value: object, named: str, file: Path, tmp_path: Path
) -> None:
    options = {"onnx": save(file), "facts": FACTS, "out": tmp_path / "out", option: value}
    with pytest.raises(InputError) as caught:
        make_plan(ExportRequest(**options))  # type: ignore[arg-type]
    assert named in str(caught.value)


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--onnx", str(tmp_path / "none.onnx")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"vit-edge: there is no ONNX file at {tmp_path / 'none.onnx'}"
    ]


def test_raw_pixels_are_taken_as_they_are(exported: ir.Model, file: Path) -> None:
    ir.save(exported, file)
    source = find_foreign_source(file)
    assert source.preprocess.shape == (32, 32, 3)
    model = prepare(file)
    rebuild(model, source.preprocess)
    assert count(model)["Cast"] == 1
    assert require_same(prepare(file), model, source.preprocess) < 1e-5
    with pytest.raises(InputError, match="nowhere to go"):
        find_foreign_source(file, ModelHints(mean=(0.5, 0.5, 0.5)))


@pytest.mark.parametrize("padding", [0, 1])
def test_normalisation_is_folded_only_where_nothing_is_padded(padding: int, file: Path) -> None:
    kernel = ",".join(map(str, np.linspace(-1, 1, 5 * 3 * 2 * 2).round(3)))
    save(
        file,
        f"c=Conv<pads=[{padding},{padding},{padding},{padding}]>(x,k) "
        "y=ReduceMean<keepdims=0>(c,axes)",
        constants=f"float[5,3,2,2] k={{{kernel}}}, int64[2] axes={{2,3}}",
    )
    facts = ModelHints(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    source, model = find_foreign_source(file, facts), prepare(file)
    rebuild(model, source.preprocess)
    assert count(model)["Mul"] == padding
    assert require_same(prepare(file), model, source.preprocess) < 1e-5


NORMALISED = "{} t=ReduceMean<keepdims=0>(n,axes) y=MatMul(t,w)"
PER_CHANNEL = (
    "float[1,3,1,1] mean={0.4,0.5,0.6}, float[3,1,1] std={0.2,0.25,0.5}, "
    "float[1,3,1,1] inverse={5.0,4.0,2.0}, float[1,3,1,1] shift={-2.0,-2.0,-1.2}, "
    "float bytes={255}, float[1] half={127.5}, float two={2}, float wide={2.18}, "
    "float minus={-2}, float[1,3,4,4] picture={" + ",".join(["0.5"] * 48) + "}"
)


@pytest.mark.parametrize(
    ("body", "own"),
    [
        ("c=Sub(x,mean) n=Div(c,std)", "mean 0.4,0.5,0.6, std 0.2,0.25,0.5 on the 0-1 scale"),
        ("i=Identity(x) c=Mul(i,inverse) n=Add(c,shift)", "std 0.2,0.25,0.5 on the 0-1 scale"),
        ("c=Mul(x,two) n=Sub(c,one)", "mean 0.5, std 0.5 on the 0-1 scale"),
        ("n=Div(x,bytes)", "mean 0, std 255 on the 0-255 scale"),
        ("b=Div(x,bytes) c=Sub(b,mean) n=Div(c,std)", "mean 102,127.5,153, std 51,63.75,127.5 on"),
        ("c=Div(x,half) n=Sub(c,one)", "mean 127.5, std 127.5 on the 0-255 scale"),
        ("n=Mul(x,one)", None),  # does nothing
        ("n=Mul(x,minus)", None),  # turns the image into its negative
        ("n=Div(x,wide)", None),  # from one normalisation to another
        ("n=Sub(x,picture)", None),  # another number for every pixel
        ("n=Div(one,x)", None),
        ("n=Relu(x)", None),
        ("c=Sub(x,mean) n=Add(c,x)", None),  # pixels go another way too
    ],
)
def test_a_file_that_normalises_itself_is_recognised(
    body: str, own: str | None, file: Path
) -> None:
    save(file, NORMALISED.format(body), constants=f"{CONSTANTS}, {PER_CHANNEL}")
    if own is None:
        with pytest.raises(InputError, match="nothing says how the model's images are normalised"):
            find_foreign_source(file)
        return
    source = find_foreign_source(file)
    note = source.notes[0]
    assert note.startswith("the model normalises its images itself: mean")
    assert own in note
    top = 255 if "0-255" in note else 1
    assert (source.preprocess.mean, source.preprocess.std) == ((0, 0, 0), (1 / top,) * 3)
    model = prepare(file)
    rebuild(model, source.preprocess)
    assert require_same(prepare(file), model, source.preprocess) < 1e-5
    with pytest.raises(InputError, match=r"itself \(mean .* and --mean 0.5,0.5,0.5 --std 0.5,0.5,"):
        find_foreign_source(file, FACTS)


def test_normalisation_is_asked_for_with_images_and_said_where_there_are_none(file: Path) -> None:
    options = {"onnx": save(file), "out": file.parent / "out"}
    plan = make_plan(ExportRequest(**options))  # type: ignore[arg-type]
    assert any("assumed: mean 0.5,0.5,0.5; std 0.5,0.5,0.5" in note for note in plan.notes)
    with pytest.raises(InputError, match=r"give --mean and --std .* ImageNet's: --mean 0.485,"):
        make_plan(ExportRequest(calibration=str(file.parent), **options))  # type: ignore[arg-type]


def test_newer_files_say_who_wrote_them(model: VisionTransformer, file: Path) -> None:
    source = find_foreign_source(write(model, file, NEW_20_DYNAMIC, (3, 32, 32)), FACTS)
    assert source.facts["producer"].startswith("pytorch")


@pytest.mark.parametrize("image", ["float[b,c,h,w] x", "float[b,3,h,w] x", "float[b,3,h,4] x"])
def test_open_sizes_are_those_of_the_option(image: str, file: Path) -> None:
    save(file, inputs=image)
    assert "say with --image-size" in refusal(file)
    source = find_foreign_source(file, replace(FACTS, img_size=(6, 4)))
    assert source.preprocess.shape == (6, 4, 3)
    model = source.read_again()
    rebuild(model, source.preprocess)
    assert require_same(source.read_again(), model, source.preprocess) < 1e-5


def test_open_channels_are_those_of_the_first_convolution(file: Path) -> None:
    body = "c=Conv(x,k) t=ReduceMean<keepdims=0>(c,axes) y=MatMul(t,w)"
    constants = "int64[2] axes={2,3}, float[2,1,1,1] k={1,2}, float[2,5] w={1,2,3,4,5,6,7,8,9,1}"
    save(file, body, "float[b,c,h,w] x", constants=constants)
    hints = ModelHints(img_size=(4, 4), mean=(0.5,), std=(0.5,))
    assert find_foreign_source(file, hints).preprocess.shape == (4, 4, 1)


def test_the_size_of_a_file_may_be_said_again(file: Path) -> None:
    assert find_foreign_source(save(file), replace(FACTS, img_size=(4, 4))).preprocess.height == 4
