"""Weights in groups through every target: built, sealed, loaded by a fresh process, and judged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jiwer
import onnx
import pytest
import torch
from safetensors.torch import load_file

from exporter.build.pipeline import BuiltArtifact, build
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.weights import Weights
from exporter.recipe import read
from exporter.recognition.load import load_original
from exporter.system.progress import silent
from exporter.targets import TARGETS
from exporter.validate import validate
from tests.support.recipes import write_recipe

pytestmark = pytest.mark.slow

KINDS = ["onnx-int8", "torch-int8", "aoti"]
PLAN = """\
quantization:
  modules:
    "*.decoder.*.self_attn.*": weight-int4
    "*.decoder.*.fc1": {scheme: weight-int4, group_size: 64, symmetric: false}
    "*.decoder.*.fc2": {scheme: weight-int8, group_size: 32, symmetric: false}
    "*.decoder.*": {scheme: weight-int8, group_size: 64}
    "*.encoder.*.fc1": weight-int8
    lm_head: weight-int8
"""


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory, tiny_whisper: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("grouped")
    write_recipe(folder, tiny_whisper, "{language: en, task: transcribe}")
    recipe = folder / "tiny.yaml"
    recipe.write_text(PLAN + recipe.read_text())
    built = build(read(recipe), output=folder / "artifacts", progress=silent)
    return {"clips": sorted((folder / "clips").glob("*.wav")), "built": built}


def one(grouped: dict[str, Any], kind: str) -> BuiltArtifact:
    built: list[BuiltArtifact] = grouped["built"]
    return next(each for each in built if each.manifest.kind == kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_process_gives_nearly_the_originals_text(
    grouped: dict[str, Any], kind: str, tiny_whisper: Path
) -> None:
    original = load_original(str(tiny_whisper), threads=1)
    options = {"language": "en", "task": "transcribe"}
    expected = [t.text for t in original.transcribe(grouped["clips"], **options)]
    command = [sys.executable, "-m", "exporter", "transcribe", str(one(grouped, kind).path)]
    done = subprocess.run(
        [*command, "--json", *map(str, grouped["clips"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [row["text"] for row in json.loads(done.stdout)["transcripts"]]
    assert jiwer.wer(expected, found) <= 0.1, "4 bits are few for so small a model"


@pytest.mark.parametrize("kind", KINDS)
def test_the_validator_finds_the_planned_weights_and_rounding(
    grouped: dict[str, Any], kind: str
) -> None:
    (told,) = validate([one(grouped, kind).path], threads=1)
    checks = {check.name: check for check in told.checks}
    for name in ("files", "plan", "weights", "faithful"):
        assert checks[name].passed, checks[name].sentence
    assert told.verdict == "passed", told.sentence


def test_every_target_stores_the_same_numbers(grouped: dict[str, Any], tiny_whisper: Path) -> None:
    """Those of the plan: packed, with scales in float32; the head has a copy of its own."""
    checkpoint, family = open_checkpoint(str(tiny_whisper)), FAMILIES["whisper"]
    artifact = one(grouped, "torch-int8")
    groups = [each.model_dump(mode="json") for each in artifact.manifest.quantization]
    plan = QuantizationPlan.from_data(groups)
    files = {
        "torch-int8": load_file(artifact.path / "model.safetensors"),
        "aoti": load_file(one(grouped, "aoti").path / "weights.safetensors"),
    }
    decoder = "model.decoder.layers.1"
    for module in (f"{decoder}.self_attn.q_proj", f"{decoder}.fc1", f"{decoder}.fc2", "proj_out"):
        weights = Weights(checkpoint, plan, family.TIED)
        scheme = plan.quantized[module]
        shape = checkpoint.tensors.get(f"{module}.weight", None)
        size = tuple(shape.shape) if shape else files["aoti"]["proj_out.weight"].shape
        for leaf in scheme.layout(tuple(size), torch.float32):
            wanted = weights.read(f"{module}.{leaf}")
            for tensors in files.values():
                assert torch.equal(tensors[f"{module}.{leaf}"], wanted)
    assert files["torch-int8"][f"{decoder}.fc1.weight"].shape == (128, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_as_foretold(grouped: dict[str, Any], kind: str, tiny_whisper: Path) -> None:
    """Of weights: packed, but for the padding between tensors."""
    checkpoint, family = open_checkpoint(str(tiny_whisper)), FAMILIES["whisper"]
    manifest, target = one(grouped, kind).manifest, TARGETS[kind]
    plan = QuantizationPlan.from_data(g.model_dump(mode="json") for g in manifest.quantization)
    options = target.Options.model_validate(manifest.options)
    model = family.skeleton(checkpoint.config)
    foretold = target.layout(options, plan, model, checkpoint, family)
    sizes = {file.path: file.size_bytes for file in manifest.files}
    weights = [path for path in foretold if path.endswith(("_data", ".safetensors"))]
    assert weights
    for path in weights:
        assert 0 <= sizes[path] - foretold[path] <= 0.02 * foretold[path]


def test_the_onnx_nodes_hold_packed_codes_and_their_accuracy_level(
    grouped: dict[str, Any],
) -> None:
    graph = onnx.load(
        one(grouped, "onnx-int8").path / "decoder_model_merged.onnx", load_external_data=False
    ).graph
    tensors = {each.name: each for each in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    asked = [{a.name: a.i for a in node.attribute} for node in nodes]
    assert {each["accuracy_level"] for each in asked} == {4}
    assert {(each["bits"], each["block_size"]) for each in asked} == {
        (4, 32), (4, 64), (8, 32), (8, 64), (8, 128)
    }  # fmt: skip
    for node, each in zip(nodes, asked, strict=True):
        codes, scale = (tensors[name] for name in node.input[1:3])
        groups = -(-each["K"] // each["block_size"])
        size = each["block_size"] * each["bits"] // 8
        assert (codes.data_type, list(codes.dims)) == (2, [each["N"], groups, size])
        assert list(scale.dims) == [each["N"], groups]
        assert codes.data_location == onnx.TensorProto.EXTERNAL
