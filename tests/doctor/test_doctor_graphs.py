"""The doctor: real ONNX exports with one thing broken, and exactly that is found."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from exporter import doctor
from exporter.doctor.checks import onnx_files, runtimes
from tests.support.doctoring import (
    CONFIG,
    ENCODER,
    FIRST,
    MERGED,
    PAST,
    Change,
    Copy,
    changed,
    findings,
    graph,
    without,
)


@pytest.fixture(scope="module")
def quantized(optimum_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optimum's int8 of its encoder, with the operators that it takes by default."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    folder = tmp_path_factory.mktemp("doctor") / "quantized"
    how = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(optimum_export, file_name=ENCODER).quantize(how, save_dir=folder)
    return folder


def newer(ir: int, opset: int) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        model.ir_version = ir
        model.opset_import[0].version = opset

    return change


def as_type(kind: Any) -> Callable[[onnx.ModelProto], object]:
    """All large weights in another type."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.size > 16_000:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(kind), tensor.name))

    return change


def idle(model: onnx.ModelProto) -> None:
    values = np.zeros((100, 100), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "idle"))


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "evil.corp"


def batch_of_two(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def other_mels(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 128


def no_switch(model: onnx.ModelProto) -> None:
    (switch,) = (each for each in model.graph.input if each.name == "use_cache_branch")
    model.graph.input.remove(switch)


def shuffled(model: onnx.ModelProto) -> None:
    caches = [each for each in model.graph.input if each.name.startswith("past_")]
    for each in caches:
        model.graph.input.remove(each)
    model.graph.input.extend(caches[::-1])


def more_heads(model: onnx.ModelProto) -> None:
    for each in [*model.graph.input, *model.graph.output]:
        if "decoder.key" in each.name:
            each.type.tensor_type.shape.dim[1].dim_value = 6


def other_width(model: onnx.ModelProto) -> None:
    for each in model.graph.input:
        if each.name == "encoder_hidden_states":
            each.type.tensor_type.shape.dim[2].dim_value = 512


def other_logits(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 51866


def cut(folder: Path) -> None:
    whole = (folder / MERGED).read_bytes()
    (folder / MERGED).write_bytes(whole[: len(whole) // 2])


GRAPHS: dict[str, tuple[Change, set[tuple[str, str, str]]]] = {
    "newer than all": (graph(ENCODER, newer(99, 99)), {("problem", "versions", ENCODER)}),
    "newer than most": (graph(ENCODER, newer(11, 22)), {("warning", "versions", ENCODER)}),
    "float64": (graph(ENCODER, as_type(np.float64)), {("warning", "float_types", ENCODER)}),
    "float16": (graph(ENCODER, as_type(np.float16)), {("warning", "float_types", ENCODER)}),
    "idle weights": (graph(ENCODER, idle), {("warning", "unused", ENCODER)}),
    "foreign operators": (graph(ENCODER, foreign), {("problem", "operators", ENCODER)}),
    "a fixed batch": (graph(ENCODER, batch_of_two), {("problem", "fixed_batch", ENCODER)}),
    "other mels": (graph(ENCODER, other_mels), {("problem", "mel_bins", ENCODER)}),
    "no switch": (graph(MERGED, no_switch), {("warning", "cache_switch", MERGED)}),
    "caches in disorder": (graph(MERGED, shuffled), {("problem", "cache_order", MERGED)}),
    "other heads": (graph(MERGED, more_heads), {("problem", "cache_shapes", MERGED)}),
    "another encoder's": (graph(MERGED, other_width), {("problem", "hidden_width", MERGED)}),
    "other logits": (graph(MERGED, other_logits), {("problem", "vocabulary", CONFIG)}),
    "cut": (cut, {("problem", "unreadable", MERGED), ("problem", "missing_parts", ENCODER)}),
    "no decoder": (without(MERGED), {("problem", "missing_parts", ENCODER)}),
    "no encoder": (without(ENCODER), {("problem", "missing_parts", MERGED)}),
    "two variants": (
        lambda folder: shutil.copy(folder / ENCODER, folder / "encoder_model_fp16.onnx"),
        {
            ("warning", "several_variants", "."),
            ("problem", "missing_parts", "encoder_model_fp16.onnx"),
        },
    ),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs(case: str, merged_export: Path, copied: Copy) -> None:
    change, expected = GRAPHS[case]
    folder = copied(merged_export)
    change(folder)
    assert set(findings(folder)) == expected


def test_what_the_runtime_says_of_itself_is_so() -> None:
    ir, opset, version = onnx_files._newest()
    assert version == onnxruntime.__version__
    opens(onnx_files._smallest(ir, opset))
    for newer_one in (onnx_files._smallest(ir + 1, opset), onnx_files._smallest(ir, opset + 1)):
        with pytest.raises(Fail):
            opens(newer_one)


def opens(graph: bytes) -> None:
    onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def test_decoders_that_hold_the_same_weights(optimum_export: Path, copied: Copy) -> None:
    both = ("warning", "weights_twice", f"{FIRST}, {PAST}")
    assert findings(optimum_export) == [both]
    folder = copied(optimum_export)
    without(MERGED)(folder)
    assert findings(folder) == [("warning", "weights_twice", PAST)]
    without(PAST)(folder)
    assert findings(folder) == [("problem", "missing_parts", FIRST)]


def test_optimums_int8(quantized: Path, merged_export: Path, copied: Copy) -> None:
    """Its default: attention's products and the convolutions too, and a scale for each matrix."""
    folder = copied(merged_export)
    (folder / ENCODER).unlink()
    shutil.copy(quantized / "encoder_model_quantized.onnx", folder / ENCODER)
    assert set(findings(folder)) == {
        ("problem", "activation_products", ENCODER),
        ("warning", "convolutions", ENCODER),
        ("warning", "single_scales", ENCODER),
    }
    diagnosis = doctor.examine(str(folder))
    model = onnx.load(folder / ENCODER)
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    count = sum(node.input[1] not in weights for node in products)
    (told,) = (f.what for check, f in diagnosis.found if check == "activation_products")
    assert 0 < count < len(products)
    assert told.startswith(f"{count} products of two activations")


def quantized_back(model: onnx.ModelProto) -> None:
    """QDQ: the first convolution's weight in int8, with one scale that is no number."""
    (convolution, *_) = (node for node in model.graph.node if node.op_type == "Conv")
    (old,) = (t for t in model.graph.initializer if t.name == convolution.input[1])
    codes = np.zeros(tuple(old.dims), np.int8)
    model.graph.initializer.remove(old)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(codes, "codes"),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [float("nan")]),
        ]
    )
    back = helper.make_node("DequantizeLinear", ["codes", "scale"], [old.name])
    model.graph.node.insert(0, back)


def test_quantized_and_back(merged_export: Path, copied: Copy) -> None:
    folder = copied(merged_export)
    graph(ENCODER, quantized_back)(folder)
    assert set(findings(folder)) == {
        ("note", "convolutions", ENCODER),
        ("warning", "single_scales", ENCODER),
        ("problem", "scales", ENCODER),
    }


def beside(folder: Path) -> Path:
    """The encoder with its weights in a file beside it."""
    model = onnx.load(folder / ENCODER)
    onnx.save(model, folder / ENCODER, save_as_external_data=True, location="data")
    assert findings(folder) == []
    return folder / "data"


def entry(key: str, value: str, *, every: bool = False) -> Change:
    """Change the place of the last weight that lies beside the graph, or of all."""

    def change(folder: Path) -> None:
        model = onnx.load(folder / ENCODER, load_external_data=False)
        outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
        for tensor in outside if every else outside[-1:]:
            for each in tensor.external_data:
                if each.key == key:
                    each.value = value
        (folder / ENCODER).write_bytes(model.SerializeToString())

    return change


OUTSIDE: dict[str, tuple[Change, str]] = {
    "missing": (without("data"), "is missing"),
    "truncated": (lambda folder: os.truncate(folder / "data", 1000), "it is cut off"),
    "outside": (entry("location", "../data"), "outside the folder"),
    "the root": (entry("location", "/etc/passwd"), "outside the folder"),
    "over another": (entry("offset", "4"), "partly overlaps"),
    "no number": (entry("offset", "x"), "is invalid"),
    "another length": (entry("length", "12"), "do not match type and shape"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_weights_beside_a_graph(case: str, merged_export: Path, copied: Copy) -> None:
    change, said = OUTSIDE[case]
    folder = copied(merged_export)
    beside(folder)
    change(folder)
    assert findings(folder) == [("problem", "weights", ENCODER)]
    ((_, finding),) = doctor.examine(str(folder)).found
    assert said in finding.what


def test_weights_by_a_link(merged_export: Path, tmp_path: Path, copied: Copy) -> None:
    folder = copied(merged_export)
    beside(folder).rename(tmp_path / "elsewhere")
    (folder / "data").symlink_to(tmp_path / "elsewhere")
    assert findings(folder) == [("problem", "weights", ENCODER), ("problem", "unreadable", "data")]


def test_what_a_browser_fetches(merged_export: Path, copied: Copy) -> None:
    folder = copied(merged_export)
    beside(folder).rename(folder / f"{ENCODER}_data")
    entry("location", f"{ENCODER}_data", every=True)(folder)
    (folder / "onnx").mkdir()
    for name in (ENCODER, f"{ENCODER}_data", MERGED):
        (folder / name).rename(folder / "onnx" / name)
    assert findings(folder) == [("problem", "browser_data", CONFIG)]
    says = {"use_external_data_format": {ENCODER: 1}}
    changed(CONFIG, **{"transformers.js_config": says})(folder)
    assert findings(folder) == []


def genai(folder: Path) -> None:
    """The files of onnxruntime-genai, around graphs of another tool."""
    told = {}
    for part, name in (("encoder", ENCODER), ("decoder", MERGED)):
        (folder / name).rename(folder / f"{part}.onnx")
        model = onnx.load(folder / f"{part}.onnx")
        told[part] = {
            "filename": f"{part}.onnx",
            "inputs": {each.name: each.name for each in model.graph.input},
            "outputs": {"cache": "present.%d.decoder.key"} if part == "decoder" else {},
        }
    (folder / "genai_config.json").write_text(json.dumps({"model": told}))
    (folder / "audio_processor_config.json").write_text("{}")
    without("generation_config.json", "preprocessor_config.json")(folder)


def test_onnxruntime_genai(merged_export: Path, copied: Copy) -> None:
    folder = copied(merged_export)
    genai(folder)
    assert doctor.examine(str(folder)).layout == "genai"
    assert findings(folder) == []
    whole = (folder / "genai_config.json").read_text()
    (folder / "genai_config.json").write_text(whole.replace("present.%d", "present_%d"))
    assert findings(folder) == [("problem", "genai_parts", "genai_config.json")]
    (folder / "genai_config.json").write_text(whole.replace("encoder.onnx", "hearing.onnx"))
    assert findings(folder) == [("problem", "genai_parts", "genai_config.json")]


def test_sherpa_onnx(tmp_path: Path) -> None:
    given = helper.make_tensor_value_info("mel", TensorProto.FLOAT, ["N", 80, "T"])
    node = helper.make_node("Identity", ["mel"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [given], []))
    newer(8, 17)(model)
    name = "tiny-encoder.onnx"
    (tmp_path / "tiny-tokens.txt").write_text("YQ== 0\n")
    (tmp_path / name).write_bytes(model.SerializeToString())
    assert findings(tmp_path) == [("problem", "sherpa_notes", name)]
    helper.set_model_props(model, dict.fromkeys(runtimes._SHERPA, "1"))
    (tmp_path / name).write_bytes(model.SerializeToString())
    assert findings(tmp_path) == []
