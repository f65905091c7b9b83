"""onnxruntime on a card: what is missing is told, and nothing runs on the CPU instead.

`cardless` lets onnxruntime's own CUDA provider run on this machine: its libraries do nothing, so
that nodes are placed, calls are checked and captured, and no number is computed.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

import exporter
from exporter.artifact import store
from exporter.build.pipeline import build
from exporter.cli import main
from exporter.errors import MachineError
from exporter.families import FAMILIES
from exporter.recipe import read
from exporter.runtime.onnx import cuda
from exporter.system import accelerators
from exporter.system.progress import silent
from exporter.targets import TARGETS
from tests.support import cardless, float16_graphs
from tests.support.built import build_tiny
from tests.support.in_process import steps_in_process
from tests.support.libcuda import H100, make_driver

IN_FLOAT16 = "[{kind: onnx-fp16}]"


@pytest.fixture(scope="module")
def artifact(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("built"), tiny_whisper, IN_FLOAT16)["onnx-fp16"]


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that shows a card, as far as artifacts ask it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    make_driver(tmp_path / "driver", [H100])
    monkeypatch.setattr(accelerators, "LIBCUDA", str(tmp_path / "driver" / "libcuda.so.1"))


@pytest.fixture
def unasked() -> Any:
    """Whether the provider can be loaded is found out anew."""
    cuda.require_provider.cache_clear()
    yield
    cuda.require_provider.cache_clear()


def test_it_is_built_without_a_card_and_says_that_it_was_not_tried(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: tiny\ncheckpoint: {tiny_whisper}\ntargets: {IN_FLOAT16}\n")
    with steps_in_process():
        (built,) = build(read(recipe), output=tmp_path / "artifacts", progress=silent)
    assert "needs an NVIDIA GPU of compute capability 7.5 or later" in built.untried
    folder = built.path
    manifest = json.loads((folder / "manifest.json").read_text())
    gpu = manifest["needs"]["gpu"]
    assert manifest["needs"]["packages"] == ["onnxruntime"]
    assert (gpu["capability"], gpu["match"], gpu["cuda"]) == ("7.5", "minimum", "13.0")
    weights = sum(path.stat().st_size for path in folder.glob("*_data"))
    assert weights < gpu["memory_bytes"] < weights + 10**9
    assert manifest["options"] == {"device": "cuda"}
    assert {group["scheme"] for group in manifest["quantization"]} == {"float"}


@pytest.mark.parametrize("command", ["validate", "bench", "transcribe"])
def test_commands_end_with_exit_code_6_where_no_driver_is(
    artifact: Path, command: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    row = {"audio": "a.wav", "text": "red green blue"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    sound = str(tmp_path / "a.wav")
    more = {
        "validate": ["--data", str(tmp_path)],
        "bench": ["--audio", sound],
        "transcribe": [sound],
    }
    code = main([command, str(artifact), *more[command]])
    told = capfd.readouterr().err
    assert (code, "no NVIDIA driver here" in told) == (6, True), told


@pytest.mark.usefixtures("card", "unasked")
def test_a_missing_library_is_named(artifact: Path) -> None:
    """The driver shows a card, and this machine has no library of CUDA."""
    with pytest.raises(MachineError) as raised:
        exporter.load(artifact)
    told = str(raised.value)
    assert "cannot load its CUDA provider: libcu" in told
    assert ".so" in told
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]==" in told
    assert len(told.splitlines()) == 2
    assert raised.value.exit_code == 6


@pytest.mark.usefixtures("card", "unasked")
def test_onnxruntime_without_cuda_is_told(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MachineError) as raised:
        exporter.load(artifact)
    assert "is without CUDA: this artifact needs onnxruntime-gpu" in str(raised.value)
    assert "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[" in str(raised.value)


def test_a_session_on_another_provider_is_an_error() -> None:
    fallen = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    error = cuda.refused(fallen)
    assert error is not None
    assert "opened the artifact on CPUExecutionProvider instead of CUDAExecutionP" in str(error)
    assert cuda.refused(SimpleNamespace(get_providers=lambda: [cuda.PROVIDER, "CPU"])) is None


@pytest.mark.usefixtures("card")
def test_the_provider_that_falls_back_is_never_used(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is what onnxruntime does on this machine: it opens the graphs on the CPU, and logs."""
    monkeypatch.setattr(cuda, "require_provider", lambda: None)
    with pytest.raises(MachineError) as raised:
        exporter.load(artifact)
    assert "instead of CUDAExecutionProvider" in str(raised.value) or "CUDA" in str(raised.value)


def test_errors_of_cuda_are_the_machine_s_and_others_are_not() -> None:
    text = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0"
    error = cuda.failed(RuntimeError(f"/src/cuda_call.cc:154\n{text}\n"))
    assert error is not None
    assert "driver version is insufficient" in str(error)
    assert cuda.failed(RuntimeError("node MatMul: shapes differ")) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Run a function of `cardless` in a process where the provider loads."""
    libraries = cardless.make(tmp_path_factory.mktemp("libraries"))

    def running(function: str, folder: Path, capability: int = 90) -> Any:
        command = [sys.executable, "-m", "tests.support.cardless", function, str(folder)]
        done = subprocess.run(
            command,
            env=cardless.environment(libraries, capability),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (told,) = [line for line in done.stdout.splitlines() if line.startswith(" {")]
        return json.loads(told)

    return running


@pytest.mark.parametrize("scheme", ["float", "weight-int8"])
def test_onnxruntime_places_every_node_on_the_card(
    run: Callable[..., Any], tiny_whisper: Path, tmp_path: Path, scheme: str
) -> None:
    """Nodes that compute with shapes stay on the host, where those are; no other does."""
    folder = float16_graphs.write(tiny_whisper, tmp_path / "graphs", scheme)
    for name, told in run("placements", folder).items():
        on_host = set(told["CPUExecutionProvider"])
        assert told["CUDAExecutionProvider"], name
        assert on_host <= {"Concat"}, name
        assert told["captures"], name
        assert not told["copies"], name


@pytest.mark.parametrize("capability", [75, 90, 120])
def test_a_beam_search_runs_and_its_steps_are_captured(
    run: Callable[..., Any], artifact: Path, capability: int
) -> None:
    """Through the provider's own checks of shapes and types; tokens are of no meaning here.

    Cards before capability 8.0 have other kernels for attention.
    """
    told = run("search", artifact, capability)
    assert told["shapes"] == [[1, 4, 568], *[[5, 1, 568]] * 4, [2, 4, 568], *[[10, 1, 568]] * 4]
    assert told["attention"] == [[5, 568], [2, 5, 32], [2, 32, 200]]
    assert told["captured"] == 6  # the encoder, a step of one row, and two sets of five and of ten
    assert told["replayed"] >= 4


def test_an_artifact_is_opened_on_the_card(run: Callable[..., Any], artifact: Path) -> None:
    told = run("transcribe", artifact)
    assert told["graphs"] == ["cross_cache", "encoder_model", "gather", "step"]


def test_transformers_generate_with_it(artifact: Path, tiny_whisper: Path) -> None:
    """For comparisons with the original step by step; on the CPU provider here."""
    manifest = store.read_manifest(artifact)
    model = TARGETS["onnx-fp16"].load(artifact, manifest, FAMILIES["whisper"], 1, "cpu")
    original = FAMILIES["whisper"].open_original(tiny_whisper)
    features = torch.randn(2, 80, 400, generator=torch.Generator().manual_seed(0))
    for asked in ({}, {"num_beams": 3}):
        expected = original.generate(features, max_new_tokens=20, **asked)
        assert torch.equal(model.generate(features, max_new_tokens=20, **asked), expected)
    forcing = FAMILIES["whisper"].forcing
    tokens = torch.arange(3, 9)[None]
    found = forcing.forced(model, features[:1], tokens, [4, 1, 1])
    whole = forcing.forced(original, features[:1], tokens, [6])
    torch.testing.assert_close(found.logits, whole.logits, atol=0.05, rtol=0.02)
    assert found.states
    for module, states in found.states.items():
        torch.testing.assert_close(states, whole.states[module], atol=0.05, rtol=0.02)
