"""Whisper's engine on a device's memory: the tokens of transformers, whatever is asked.

The device is the host's memory here, with onnxruntime's CPU provider: all of the engine but the
provider is that of a card.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import exporter
from exporter.families import FAMILIES
from exporter.families.whisper.engine.eager import eager_engine
from exporter.families.whisper.engine.engine import ArrayEngine
from exporter.recognition.light import _WhisperFiles, _WhisperModel
from exporter.runtime.decoding import complete
from exporter.runtime.onnx.buffers import Memory
from exporter.runtime.onnx.device_whisper import Engine
from tests.support import float16_graphs


@pytest.fixture(scope="module")
def folders(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("device")
    return {
        name: float16_graphs.write(tiny_whisper, place / name, dtype=getattr(torch, name))
        for name in ("float32", "float16")
    }


@pytest.fixture(scope="module", params=["float32", "float16"])
def ours(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    folder = folders[request.param]
    return _WhisperModel(_WhisperFiles.read(folder), float16_graphs.open_on_cpu(folder))


@pytest.fixture(scope="module")
def original(tiny_whisper: Path) -> Any:
    return exporter.load_original(tiny_whisper)


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Engine:
    return float16_graphs.open_on_cpu(folders["float32"])


def sounds(*seconds: float) -> list[np.ndarray]:
    drawn = np.random.default_rng(0)
    return [drawn.normal(0, 0.1, int(16_000 * each)).astype(np.float32) for each in seconds]


@pytest.mark.parametrize(
    "asked",
    [
        {"num_beams": 1},
        {"num_beams": 5},
        {"timestamps": True},
        {"initial_prompt": "red green"},
        {"num_beams": 3, "language": "en", "timestamps": True},
    ],
    ids=str,
)
def test_transcripts_are_the_original_s(ours: Any, original: Any, asked: dict[str, Any]) -> None:
    """Short recordings in a batch, and one longer than the window."""
    given, decoding = sounds(2, 3, 4, 9), complete(asked)
    found = ours.transcribe(given, decoding)
    expected = original.opened.transcribe(given, decoding)
    assert [each.text for each in found] == [each.text for each in expected]
    assert any(each.text for each in found)


def features(windows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (windows, 80, 400)).astype(np.float32)


def ids(rows: int, tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, (rows, tokens))


@pytest.fixture(scope="module")
def theirs(tiny_whisper: Path) -> ArrayEngine:
    """The engine of the original's modules, in float32."""
    return ArrayEngine(eager_engine(FAMILIES["whisper"].open_original(tiny_whisper)))


@pytest.mark.parametrize("windows", [1, 3])
@pytest.mark.parametrize("beams", [1, 4])
def test_every_step_is_that_of_the_original(
    engine: Engine, theirs: ArrayEngine, windows: int, beams: int
) -> None:
    """A prompt, then tokens of rows that change places; twice, on caches used before."""
    for seed in range(2):
        given = features(windows, seed)
        pair = [each.start(each.encode(given)) for each in (engine, theirs)]
        prompt, rows = ids(windows, 4, seed), windows * beams
        compare(*(each.step(prompt) for each in pair))
        if beams > 1:
            for each in pair:
                each.expand_beams(beams)
        for place in range(5):
            step = ids(rows, 1, 100 * seed + place)
            compare(*(each.step(step) for each in pair))
            turned = np.random.default_rng(place).integers(0, beams, rows)
            turned = turned + beams * np.arange(windows).repeat(beams)
            for each in pair:
                each.reorder(turned)
        for each in pair:
            each.release()


def compare(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=1e-3)


def test_windows_are_selected_and_start_again(engine: Engine) -> None:
    given = features(3)
    together = engine.encode(given)
    chosen = engine.select(together, [2, 0])
    prompt = ids(2, 3, 0)
    first = engine.start(chosen)
    expected = first.step(prompt)
    others = engine.start(engine.encode(features(2, 1)))
    assert not np.array_equal(others.step(prompt), expected)
    first.release()
    assert np.array_equal(engine.start(chosen).step(prompt), expected)
    assert np.array_equal(engine.start(engine.encode(given[[2, 0]])).step(prompt), expected)


def test_logits_are_the_caller_s(engine: Engine) -> None:
    """A search changes them; the next step does not see that, and does not change the last."""
    hypotheses = engine.start(engine.encode(features(1)))
    first = hypotheses.step(ids(1, 3, 0))
    kept = first.copy()
    second = hypotheses.step(ids(1, 1, 1))
    assert np.array_equal(first, kept)
    second[:] = 0
    assert hypotheses.step(ids(1, 1, 2)).any()


def test_what_tokens_attend_with_is_the_original_s(engine: Engine, theirs: ArrayEngine) -> None:
    given, heads = features(2), [(0, 1), (1, 0)]
    found = engine.attend(engine.encode(given), 1, ids(1, 5, 0)[0], heads)
    expected = theirs.attend(theirs.encode(given), 1, ids(1, 5, 0)[0], heads)
    compare(found.logits, expected.logits)
    compare(found.queries, expected.queries)
    compare(found.keys, expected.keys)


def test_calls_of_single_tokens_are_captured_once_for_each_pair_of_caches(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beam search has two sets, and so has the audio while another window is still held."""
    opened = float16_graphs.open_on_cpu(folders["float32"])
    step, seen = opened.functions["step"], []

    def run(bound: Any) -> Any:
        seen.append(bound.options.get_run_config_entry("gpu_graph_id"))
        return step(bound)

    opened.functions["step"] = run
    for seed in range(6):
        hypotheses = opened.start(opened.encode(features(1, seed)))
        hypotheses.step(ids(1, 4, seed))
        hypotheses.expand_beams(2)
        for place in range(6):
            hypotheses.step(ids(2, 1, place))
            hypotheses.reorder(np.array([1, 0]))
        hypotheses.release()
    graphs = [each for each in seen if each != "-1"]
    assert seen.count("-1") == 6
    assert len(graphs) == 36
    assert len(set(graphs)) == 4


def test_a_view_of_a_buffer_is_its_memory() -> None:
    memory = Memory("cpu")
    whole = memory.zeros((3, 4, 2), np.dtype(np.float32))
    array = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    memory.write(whole, array)
    copied = memory.read(whole)
    assert np.array_equal(copied, array)
    part = whole.entry(1).entries(2, 4)
    assert part.shape == (2, 2)
    assert part.address - whole.address == 4 * (8 + 4)
    memory.write(whole, array + 1)
    assert np.array_equal(copied, array)
