"""Whisper's engine on numpy gives the logits of the torch one, bit for bit, whatever is asked."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter import recipe
from exporter.artifact import store
from exporter.build.pipeline import build
from exporter.families import FAMILIES
from exporter.families.whisper.engine.engine import ArrayEngine
from exporter.runtime.onnx import graph_name, session
from exporter.runtime.onnx.external_data import own_graphs
from exporter.runtime.onnx.whisper import Engine
from exporter.targets import TARGETS
from tests.support.in_process import steps_in_process
from tests.support.tiny import make_whisper

RECIPE = """\
name: tiny
checkpoint: checkpoint
targets: [{kind: onnx-int8}]
quantization: {default: dynamic-int8}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("engine")
    make_whisper(place / "checkpoint")
    (place / "tiny.yaml").write_text(RECIPE)
    with steps_in_process():
        wanted = recipe.read(place / "tiny.yaml")
        (made,) = build(wanted, output=place / "artifacts", progress=lambda *_: None)
    return made.path


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """The engine of the transformers model."""
    manifest = store.read_manifest(folder)
    model = TARGETS["onnx-int8"].load(folder, manifest, FAMILIES["whisper"], 1)
    return model.engine


@pytest.fixture(scope="module")
def ours(folder: Path) -> Engine:
    manifest = store.read_sealed(folder)
    graphs = own_graphs(folder, manifest.files, store.read_verified)
    opened = {graph_name(p): session.open_graph(p, c, 1) for p, c in graphs.items()}
    return Engine(opened)


class Torch:
    """The torch engine behind the same methods."""

    def __init__(self, engine: Any, features: np.ndarray) -> None:
        self._engine = engine
        with torch.inference_mode():
            self._encoded = engine.encode(torch.from_numpy(features))
        self._cache = engine.decoder.start()

    def step(self, ids: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = self._engine.step(torch.from_numpy(ids), self._encoded, self._cache)
        return logits.numpy()

    def expand_beams(self, beams: int) -> None:
        self._encoded = self._engine.decoder.expand_beams(self._encoded, self._cache, beams)

    def reorder(self, rows: np.ndarray) -> None:
        self._cache.reorder_cache(torch.from_numpy(rows))


def features(windows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (windows, 80, 400)).astype(np.float32)


def ids(rows: int, tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 300, (rows, tokens))


@pytest.mark.parametrize("windows", [1, 2, 3])
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_every_step_is_the_same(ours: Engine, theirs: Any, windows: int, beams: int) -> None:
    """A prompt, then single tokens of rows that change places; twice, on caches used before."""
    for seed in range(2):
        given = features(windows, seed)
        encoded = ours.encode(given)
        pair = [ours.start(encoded), Torch(theirs, given)]
        prompt = ids(windows, 4, seed)
        first, second = (each.step(prompt).copy() for each in pair)
        assert np.array_equal(first, second)
        if beams > 1:
            for each in pair:
                each.expand_beams(beams)
        rows = windows * beams
        for place in range(6):
            step = ids(rows, 1, 100 * seed + place)
            first, second = (each.step(step).copy() for each in pair)
            assert first.shape == (rows, 1, first.shape[2])
            assert np.array_equal(first, second)
            if beams > 1:
                turned = np.random.default_rng(place).integers(0, beams, rows)
                turned = turned + beams * np.arange(windows).repeat(beams)
                for each in pair:
                    each.reorder(turned)
        pair[0].release()


def test_the_same_windows_start_again(ours: Engine) -> None:
    """As after a temperature that failed; others in between change nothing."""
    given, prompt = features(2), ids(2, 3, 0)
    encoded = ours.encode(given)
    first = ours.start(encoded)
    expected = first.step(prompt).copy()
    others = ours.start(ours.encode(features(2, 1)))
    assert not np.array_equal(others.step(prompt), expected)
    first.expand_beams(3)
    first.release()
    others.release()
    again = ours.start(encoded)
    assert np.array_equal(again.step(prompt), expected)


def test_windows_do_not_depend_on_others(ours: Engine) -> None:
    """Nor on how many there are, nor on which of them are decoded again."""
    given = features(4)
    given[1] *= 30  # its keys and values are much larger
    together, others = ours.encode(given), ours.encode(given[[3, 1]])
    chosen = ours.select(together, [3, 0])
    for row in range(4):
        alone = ours.encode(given[row : row + 1]).audio.arrays
        for name, array in together.audio.arrays.items():
            assert np.array_equal(array[row : row + 1], alone[name])
    for name, array in together.audio.arrays.items():
        assert np.array_equal(others.audio.arrays[name], array[[3, 1]])
        assert np.array_equal(chosen.audio.arrays[name], array[[3, 0]])


def test_threads_decode_beside_each_other(ours: Engine) -> None:
    def decoded(seed: int) -> np.ndarray:
        hypotheses = ours.start(ours.encode(features(1, seed)))
        hypotheses.step(ids(1, 3, seed))
        hypotheses.expand_beams(2)
        rows = [hypotheses.step(ids(2, 1, 10 * seed + n)).copy() for n in range(8)]
        hypotheses.release()
        return np.concatenate(rows)

    alone = [decoded(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for one, other in zip(alone, pool.map(decoded, range(4)), strict=True):
                assert np.array_equal(one, other)


@pytest.mark.parametrize("tokens", [2, 9])
def test_queries_and_keys_are_the_same(ours: Engine, theirs: Any, tokens: int) -> None:
    heads, given, text = [(1, 1), (0, 0), (1, 0)], features(1), ids(1, tokens, 3)[0]
    encoded, others = ours.encode(given), ArrayEngine(theirs)
    other = others.attend(others.encode(given), 0, text, heads)
    for _ in range(2):  # before and after the window is decoded
        found = ours.attend(encoded, 0, text, heads)
        assert np.array_equal(found.logits, other.logits)
        assert np.array_equal(found.queries, other.queries)
        assert found.queries.shape == (3, tokens, 32)
        assert found.keys.shape == (3, 32, 200)
        # One of the two multiplies codes and scales in another order.
        np.testing.assert_allclose(found.keys, other.keys, rtol=1e-6)
        hypotheses = ours.start(encoded)
        assert np.array_equal(hypotheses.step(text[None])[0], found.logits)
        hypotheses.release()


def test_one_of_several_windows_attends(ours: Engine) -> None:
    encoded, text = ours.encode(features(3)), ids(1, 5, 3)[0]
    hypotheses = ours.start(encoded)
    logits = hypotheses.step(np.tile(text, (3, 1))).copy()
    hypotheses.release()
    keys = []
    for window in range(3):
        found = ours.attend(encoded, window, text, [(1, 0)])
        assert np.array_equal(found.logits, logits[window])
        keys.append(found.keys)
    assert not np.array_equal(keys[0], keys[1])


def test_tokens_alone_cost_no_queries(ours: Engine) -> None:
    """An output that nobody asks for is not bound."""
    bound = []
    usual = ours.functions["step"]
    ours.functions["step"] = lambda call: bound.append({*call.outputs}) or usual(call)
    try:
        ours.start(ours.encode(features(1))).step(ids(1, 1, 0))
    finally:
        ours.functions["step"] = usual
    assert bound == [{"logits"}]


def test_a_measurement_may_stand_in_for_a_graph(ours: Engine) -> None:
    calls, original = [], dict(ours.functions)

    def counted(name: str) -> Any:
        def run(given: Any) -> Any:
            calls.append(name)
            return original[name](given)

        return run

    ours.functions.update({name: counted(name) for name in original})
    try:
        hypotheses = ours.start(ours.encode(features(1)))
        hypotheses.step(ids(1, 4, 0))
        hypotheses.step(ids(1, 1, 0))
    finally:
        ours.functions.update(original)
    assert calls == ["encoder_model", "cross_cache", "step", "step"]
