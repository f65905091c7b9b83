"""The graphs of onnx-fp16: each node has a kernel for CUDA, and float16 holds what it computes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from exporter.build.estimate import of_checkpoint, room_at
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.cli import main
from exporter.errors import RecipeError
from exporter.families import FAMILIES
from exporter.families.whisper.graphs.layers import _clamped
from exporter.quantization.schemes import SCHEMES
from exporter.runtime.onnx.session import open_graph
from exporter.targets import TARGETS
from exporter.targets.onnx.cuda.options import Options
from tests.support import float16_graphs
from tests.support.cuda_kernels import Used, has_kernel, table, used_in
from tests.support.plans import plan_for
from tests.support.tiny import make_whisper
from tests.support.tiny_ctc import make_ctc

OURS = ("encoder_model", "cross_cache", "step", "gather")
ALL = (*OURS, "decoder_model_merged")
SCHEMES_HERE = ("float", "weight-int8", "weight-int4")
KIND = TARGETS["onnx-fp16"]


@pytest.fixture(scope="module")
def folders(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("float16")
    return {each: float16_graphs.write(tiny_whisper, place / each, each) for each in SCHEMES_HERE}


def graph(folder: Path, name: str) -> onnx.ModelProto:
    return onnx.load(folder / f"{name}.onnx", load_external_data=False)


def types(values: Any) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scheme", SCHEMES_HERE)
def test_every_node_has_a_kernel(folders: dict[str, Path], scheme: str, name: str) -> None:
    known = table()
    nodes = list(used_in(graph(folders[scheme], name), known["parameters"]))
    assert nodes
    missing = [each for each in nodes if not has_kernel(each, known["kernels"])]
    assert not missing


def test_the_table_tells_what_has_no_kernel() -> None:
    """An operator for CPUs alone, types that one lacks, and a version that is too old."""
    kernels, half, single = table()["kernels"], "tensor(float16)", "tensor(float)"
    assert not has_kernel(Used("", "", "DynamicQuantizeLinear", 11, {"T1": single}), kernels)
    attention = "com.microsoft", "GroupQueryAttention", 1
    assert has_kernel(Used("", *attention, {"T": half, "T_CACHE": half}), kernels)
    assert not has_kernel(Used("", *attention, {"T": single, "T_CACHE": single}), kernels)
    assert has_kernel(Used("", "", "MatMul", 13, {"T": half}), kernels)
    assert not has_kernel(Used("", "", "MatMul", 13, {"T": "tensor(int32)"}), kernels)
    assert not has_kernel(Used("", "", "Gelu", 19, {"T": half}), kernels)


@pytest.mark.parametrize("scheme", SCHEMES_HERE)
def test_weights_and_states_are_float16(folders: dict[str, Path], scheme: str) -> None:
    """Logits alone are float32; codes are bytes, with scales in float16."""
    for name in ALL:
        model = graph(folders[scheme], name)
        outputs = types(model.graph.output)
        assert outputs.pop("logits", TensorProto.FLOAT) == TensorProto.FLOAT
        floats = {*outputs.values(), *types(model.graph.input).values()} - {
            TensorProto.INT64,
            TensorProto.INT32,
            TensorProto.BOOL,
        }
        assert floats <= {TensorProto.FLOAT16}
        stored = {each.data_type for each in model.graph.initializer if each.external_data}
        assert stored <= {TensorProto.FLOAT16, TensorProto.UINT8}


def test_our_graphs_have_no_branches_and_names_that_the_engine_knows(
    folders: dict[str, Path],
) -> None:
    for name in OURS:
        assert "If" not in {node.op_type for node in graph(folders["float"], name).graph.node}
    step = graph(folders["float"], "step").graph
    caches = [f"{k}.{n}.{leaf}" for n in range(2) for k in ("own", "cross") for leaf in LEAVES]
    assert [each.name for each in step.input] == ["input_ids", "positions", "last", *caches]
    written = [f"own.{n}.{leaf}.written" for n in range(2) for leaf in LEAVES]
    queries = [f"cross.{n}.query" for n in range(2)]
    expected = {"logits", *written, *queries}
    assert {each.name for each in step.output} == expected


LEAVES = ("key", "value")


def test_lengths_of_the_step_are_on_the_device(folders: dict[str, Path]) -> None:
    """The attention's length on the host is a constant: a CUDA graph would keep any other."""
    step = graph(folders["float"], "step").graph
    constants = {node.output[0]: node for node in step.node if node.op_type == "Constant"}
    attentions = [node for node in step.node if node.op_type == "GroupQueryAttention"]
    assert len(attentions) == 2
    for node in attentions:
        assert node.input[5] == "last"
        (value,) = constants[node.input[6]].attribute
        assert onnx.numpy_helper.to_array(value.t).tolist() == [64]


def norms_of(model: onnx.ModelProto) -> Iterator[Any]:
    return (node for node in model.graph.node if "LayerNormalization" in node.op_type)


def test_norms_sum_in_float32_and_take_the_additions_before_them(
    folders: dict[str, Path],
) -> None:
    for name, joined, alone in (("encoder_model", 2, 3), ("step", 6, 1)):
        norms = list(norms_of(graph(folders["float"], name)))
        skips = [node for node in norms if node.op_type == "SkipLayerNormalization"]
        assert (len(skips), len(norms) - len(skips)) == (joined, alone), name
        for node in norms:
            told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            assert told.get("stash_type", 1) == 1
        biased = [node for node in skips if len(node.input) == 5 and node.input[4]]
        assert biased == skips, name


OUTLIER = 1000.0


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Graphs in float16 and in float32 with outliers of 1000, as states of trained models have."""
    folder = tmp_path_factory.mktemp("loud")
    place = make_whisper(folder / "checkpoint")
    file = place / "model.safetensors"
    tensors = load_file(file)
    for side in ("encoder", "decoder"):
        tensors[f"model.{side}.embed_positions.weight"][:, 7] = OUTLIER
        tensors[f"model.{side}.embed_positions.weight"][:, 31] = -OUTLIER / 3
        tensors[f"model.{side}.layers.0.fc2.bias"][11] = 2 * OUTLIER
    save_file(tensors, file, metadata={"format": "pt"})
    single = float16_graphs.write(place, folder / "single", dtype=torch.float32)
    return float16_graphs.write(place, folder / "half"), single


def tapped(folder: Path, name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every norm's output, and every sum before one, by name, in float32."""
    path = folder / f"{name}.onnx"
    model = graph(folder, name)
    kind = next(each.type for each in model.graph.output if each.name != "logits")
    wanted = [out for node in norms_of(model) for out in (node.output[0], *node.output[3:])]
    known = {each.name for each in model.graph.output}
    for each in wanted:
        if each not in known:
            value = helper.make_tensor_value_info(each, kind.tensor_type.elem_type, None)
            model.graph.output.append(value)
    opened = open_graph(path, model.SerializeToString(), 1)
    given = {n: feeds[n].astype(value.dtype) for n, value in opened.inputs.items()}
    found = opened(given)
    return {each: found[each].astype(np.float32) for each in wanted}


def feeds_of(folder: Path) -> dict[str, np.ndarray]:
    """Inputs of the encoder and of a step, with caches of zeros where nothing is yet."""
    drawn = np.random.default_rng(0)
    step = graph(folder, "step").graph
    feeds = {
        "input_features": drawn.normal(0, 1, (1, 80, 400)),
        "input_ids": np.array([[3]]),
        "positions": np.array([0]),
        "last": np.array([0]),
    }
    for value in step.input:
        if value.name.startswith(("own.", "cross.")):
            shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            scale = 0.0 if value.name.startswith("own.") else 1.0
            feeds[value.name] = scale * drawn.normal(0, 1, shape)
    return feeds


@pytest.mark.parametrize("name", ["encoder_model", "step"])
def test_layers_with_outliers_are_those_of_float32(loud: tuple[Path, Path], name: str) -> None:
    """Layer by layer: a norm whose squares overflow gives finite numbers that are wrong."""
    half, single = loud
    feeds = feeds_of(half)
    found, expected = tapped(half, name, feeds), tapped(single, name, feeds)
    common = found.keys() & expected.keys()  # clamped states are not joined with their norm
    assert len(common) >= 7
    assert max(abs(expected[value]).max() for value in common) > OUTLIER
    for value in common:
        assert np.isfinite(found[value]).all(), value
        error = abs(found[value] - expected[value]).max() / abs(expected[value]).max()
        assert error < 5e-3, (value, error)


def test_states_beyond_float16_are_clamped_as_in_transformers() -> None:
    states = torch.tensor([60_000.0, 65_504.0, -65_504.0, 3.0])
    limit = torch.finfo(torch.float16).max - 1000  # of `WhisperEncoderLayer`
    expected = torch.tensor([60_000.0, limit, -limit, 3.0]).half()
    assert torch.equal(_clamped(states.half()), expected)
    assert torch.equal(_clamped(10 * states), 10 * states)


def test_the_kind_refuses_what_it_has_no_nodes_for(tiny_whisper: Path) -> None:
    opened, family = open_checkpoint(str(tiny_whisper)), FAMILIES["whisper"]
    model = family.skeleton(opened.config)
    wide = SCHEMES["float"].Scheme.model_validate({"dtype": "float32"})
    with pytest.raises(RecipeError, match="onnx-fp16 computes in float16: leave out `dtype: fl"):
        KIND.check(Options(), plan_for(model, wide), model, opened, family)


@pytest.mark.parametrize("bound", [False, True], ids=["arrays", "I/O binding"])
@pytest.mark.parametrize("scheme", ["float", "weight-int8"])
def test_optimum_generates_with_the_folder_as_it_is(
    folders: dict[str, Path], tiny_whisper: Path, scheme: str, bound: bool
) -> None:
    """In float16, on the CPU provider here; with I/O binding, which it has on a card."""
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

    model = ORTModelForSpeechSeq2Seq.from_pretrained(
        folders[scheme], provider="CPUExecutionProvider", use_io_binding=bound
    )
    assert model.dtype == torch.float16
    original = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    features = torch.randn(2, 80, 400, generator=torch.Generator().manual_seed(0))
    for asked in ({}, {"num_beams": 3}):
        expected = original.generate(features, max_new_tokens=20, **asked)
        assert torch.equal(model.generate(features, max_new_tokens=20, **asked), expected)


def refusal(folder: Path, checkpoint: Path, more: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What a build says, with exit code 2, of the target of a recipe."""
    path = folder / "recipe.yaml"
    head = f"name: tiny\ncheckpoint: {checkpoint}\n"
    path.write_text(f"{head}targets:\n  - {{kind: onnx-fp16}}\n{more}")
    assert main(["build", str(path), "--dry-run"]) == 2
    told = capfd.readouterr().err
    assert told.startswith(f"error: {path}:4:5: targets.0: ")
    return told


def test_a_recipe_is_told_at_its_line_what_the_kind_lacks(
    tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = refusal(tmp_path, tiny_whisper, "quantization: {default: dynamic-int8}\n", capfd)
    assert "onnx-fp16 has no `dynamic-int8`; it has float, weight-int4, weight-int8" in told
    assert "static-int8" not in KIND.SCHEMES
    ctc = make_ctc(tmp_path / "ctc", "wav2vec2")
    told = refusal(tmp_path, ctc, "", capfd)
    assert "onnx-fp16 is for Whisper so far: for a CTC model take onnx-int8 or aoti" in told


def test_a_plan_of_all_kinds_says_which_has_no_such_artifact(tmp_path: Path) -> None:
    opened = open_checkpoint(str(make_ctc(tmp_path / "ctc", "wav2vec2")))
    rows = {row["kind"]: row for row in of_checkpoint(opened, room_at(tmp_path))}
    assert not rows["onnx-fp16"]["fits"]
    assert "is for Whisper so far" in rows["onnx-fp16"]["why_not"]
    assert rows["onnx-int8"]["fits"]
