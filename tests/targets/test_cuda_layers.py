"""One layer is compiled and called with the weights of each, here with C++ for this CPU.

It is the road of a GPU, but for the kernels and their capture in a CUDA graph.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import IntegrityError
from exporter.families.whisper import family as whisper
from exporter.formats import audio
from exporter.quantization.plan import QuantizationPlan
from exporter.system import hardware
from exporter.targets.aoti.cuda.builder import (
    Recipe,
    build_part,
    build_parts,
    cut,
    tensors_of,
    write_weights,
)
from exporter.targets.aoti.cuda.load import WEIGHTS, Part, open_functions
from exporter.targets.aoti.devices import SUPPORT
from exporter.targets.aoti.package import read_spec
from tests.support.whisper import multilingual

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hardware.describe().isa.startswith(("x86-64-v3", "x86-64-v4")),
        reason="aoti compiles for x86-64-v3 and up",
    ),
]

ENCODER = ("encoder_before", "encoder_layer", "encoder_after")
LOADED = """
import sys, json
from pathlib import Path
from tests.targets.test_cuda_layers import encoded
folder, checkpoint = map(Path, sys.argv[1:])
print(encoded(folder, checkpoint).double().sum().item())
"""
DECODED = """
import sys, json
from pathlib import Path
from tests.targets.test_cuda_layers import opened, texts
folder, checkpoint = map(Path, sys.argv[1:])
print(json.dumps(texts(opened(folder), checkpoint)))
"""


def silent(_what: str, _done: float | None) -> None:
    """Say nothing of a build's progress."""


def recipe_of(checkpoint: Path) -> Recipe:
    """Float32, for this CPU, with a step of one row."""
    opened = open_checkpoint(str(checkpoint))
    cpu = torch.device("cpu")
    return Recipe("whisper", opened, QuantizationPlan(), torch.float32, (1,), cpu)


@pytest.fixture(scope="module")
def demo(repository: Path) -> Path:
    return repository / "recipes/demo/whisper"


@pytest.fixture(scope="module")
def built(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the demo's encoder, and its weights."""
    folder: Path = tmp_path_factory.mktemp("encoder")
    recipe = recipe_of(demo)
    for name in ENCODER:
        build_part(recipe, name, folder, True)
    whole = cut(recipe)
    layout = {}
    for name in ENCODER:
        layout |= tensors_of(folder, name, whole)
    write_weights(folder, layout, whole, silent)
    return folder


def in_a_fresh_process(program: str, folder: Path, checkpoint: Path, repository: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, folder, checkpoint],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def features_of(checkpoint: Path) -> torch.Tensor:
    config = open_checkpoint(str(checkpoint)).config
    shape = (2, config["num_mel_bins"], 2 * config["max_source_positions"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def encoded(folder: Path, checkpoint: Path) -> torch.Tensor:
    encoder = open_functions(folder, folder, SUPPORT["cpu"]).by_name["encoder"]
    given = {"input_features": features_of(checkpoint)}
    return encoder(given)["encoder_hidden_states"]


def test_a_fresh_process_computes_the_same(built: Path, demo: Path, repository: Path) -> None:
    there = float(in_a_fresh_process(LOADED, built, demo, repository))
    assert there == pytest.approx(encoded(built, demo).double().sum().item(), rel=1e-6)


def test_packages_hold_no_weights_and_name_them_all(built: Path) -> None:
    specs = {path.stem: read_spec(path) for path in built.glob("*.pt2")}
    assert set(specs) == set(ENCODER)
    assert all(spec.passed and spec.needs_torch for spec in specs.values())
    assert max(path.stat().st_size for path in built.glob("*.pt2")) < 300_000
    named = {c.name for spec in specs.values() for c in spec.constants.values()}
    with safe_open(built / WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
    assert named == {name for name in stored if ".layers." not in name or ".layers.0." in name}
    assert any(".layers.1." in name for name in stored)


def test_layers_have_their_own_weights(built: Path, demo: Path) -> None:
    """With two layers exchanged, the original computes something else."""
    found, features = encoded(built, demo), features_of(demo)
    original = whisper.open_original(demo).model.encoder
    wanted = original(features).last_hidden_state
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    original.layers[0], original.layers[1] = original.layers[1], original.layers[0]
    other = original(features).last_hidden_state
    assert (found - other).abs().max() > 1e-2 * wanted.abs().max()


def test_a_call_is_repeated_with_what_its_tensors_hold_now(built: Path, demo: Path) -> None:
    encoder = open_functions(built, built, SUPPORT["cpu"]).by_name["encoder"]
    features = torch.zeros_like(features_of(demo))
    inputs = {"input_features": features}
    quiet = encoder(inputs)["encoder_hidden_states"].clone()
    features.copy_(features_of(demo))
    loud = encoder(inputs)["encoder_hidden_states"]
    assert not torch.equal(loud, quiet)
    assert torch.equal(encoded(built, demo), loud)


@pytest.mark.sweep
def test_a_whole_model_in_a_fresh_process_finds_the_originals_tokens(
    demo: Path, repository: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(demo)
    tensors, whole = build_parts(recipe, tmp_path, silent, fresh=True)
    write_weights(tmp_path, tensors, whole, silent)
    recipe.checkpoint.copy_companions(tmp_path)
    found = json.loads(in_a_fresh_process(DECODED, tmp_path, demo, repository))
    assert found == texts(whisper.open_original(demo), demo)
    assert all(found)


def opened(folder: Path) -> Any:
    functions = open_functions(folder, folder, SUPPORT["cpu"])
    return whisper.assemble(folder, functions.by_name, torch.float32, narrow=functions.narrow)


def texts(model: Any, checkpoint: Path) -> list[list[int]]:
    paths = sorted((checkpoint.parent / "clips").glob("short-*.flac"))[:5]
    clips = [audio.read(path, 16_000) for path in paths]
    processor = whisper.processor(checkpoint)
    found = whisper.transcribe(model, processor, clips, multilingual(batch_size=1))
    return [list(one.tokens) for one in found]


def rename(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors["other"] = tensors.pop(name)


def narrow(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name][:-1].clone()


def shorten(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].half()


@pytest.mark.parametrize("damage", [rename, narrow, shorten])
def test_weights_that_do_not_fit_are_named(
    damage: Callable[[dict[str, torch.Tensor], str], None], built: Path, tmp_path: Path
) -> None:
    name = "model.encoder.layer_norm.weight"
    tensors = load_file(built / WEIGHTS)
    damage(tensors, name)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(IntegrityError, match=f"the weight {name} must be"):
        open_functions(built, tmp_path, SUPPORT["cpu"])


def test_a_package_that_holds_its_weights_is_none_of_a_gpu(built: Path) -> None:
    path = built / "encoder_after.pt2"
    spec = replace(read_spec(path), passed=False)
    with pytest.raises(IntegrityError, match="holds its weights"):
        Part(path, spec, SUPPORT["cpu"], path, nullcontext())
