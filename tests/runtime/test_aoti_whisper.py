"""Whisper's compiled graphs on numpy arrays, against the same graphs in torch and in full."""

from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.families.attention import unpacked
from exporter.runtime.aoti.package import Array, open_packages
from exporter.runtime.aoti.whisper import GRAPHS, Engine, Hypotheses
from exporter.system.hardware import describe
from exporter.targets.aoti.package import Package, read_spec
from exporter.targets.aoti.target import _weights
from tests.support.built import build_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not describe().isa.startswith(("x86-64-v3", "x86-64-v4")),
        reason="aoti compiles for x86-64-v3 and up",
    ),
]
PROMPT = [300, 301, 302, 303]


@pytest.fixture(scope="module")
def artifact(english_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    (made,) = build_tiny(folder, english_whisper, "[{kind: aoti}]").values()
    return made


@pytest.fixture(scope="module")
def engine(artifact: Path) -> Engine:
    names = [f"{name}.pt2" for name in GRAPHS]
    packages = open_packages(artifact, {n: (artifact / n).read_bytes() for n in names}, 1)
    assert set(packages) == set(GRAPHS)
    return Engine(packages)


@pytest.fixture(scope="module")
def features(engine: Engine) -> Array:
    shape = engine.functions["encoder"].spec.inputs["input_features"].shape[1:]
    return np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)


def rows(ids: list[int], count: int) -> Array:
    return np.tile(np.array(ids, np.int64), (count, 1))


def last(hypotheses: Hypotheses, ids: Array) -> Array:
    return hypotheses.step(ids)[:, -1].copy()


def test_graphs_give_the_bits_that_they_give_in_torch(
    artifact: Path, engine: Engine, features: Array
) -> None:
    weights = _weights(artifact / "weights.safetensors", "cpu")
    paths = {name: artifact / f"{name}.pt2" for name in GRAPHS}
    specs = {name: read_spec(path) for name, path in paths.items()}
    there = {name: Package(paths[name], specs[name], weights) for name in GRAPHS}
    encoded = engine.encode(features)
    with torch.inference_mode():
        for window, found in zip(features, encoded, strict=True):
            expected = there["encoder"]({"input_features": torch.from_numpy(window[None])})
            assert np.array_equal(found[None], expected["cross_cache"].numpy())
        inputs = {"cross_cache": torch.from_numpy(encoded)}
        for name, spec in specs["decoder"].inputs.items():
            shape = [2 if isinstance(size, str) else size for size in spec.shape]
            inputs.setdefault(name, torch.zeros(shape, dtype=getattr(torch, spec.dtype)))
        inputs["ancestors"][:] = torch.arange(2)[:, None]
        hypotheses, length = engine.start(encoded), 0
        for tokens in (PROMPT, [310], [311]):
            inputs["input_ids"] = torch.from_numpy(rows(tokens, 2))
            inputs["position"][0] = length
            length += len(tokens)
            outputs = there["decoder"](inputs)
            logits = outputs["logits"].numpy()
            assert np.array_equal(hypotheses.step(rows(tokens, 2)), logits)
            if length > len(tokens):
                continue
            for window in range(2):
                heads = [(2, 1), (0, 2)]
                found = engine.attend(encoded, window, np.array(tokens), heads)
                alone = engine.start(encoded[window : window + 1])
                assert np.array_equal(found.logits, alone.step(rows(tokens, 1))[0])
                alone.release()
                queries = [outputs[f"cross.{n}.query"][window].numpy() for n, _ in heads]
                expected = [
                    q[:, 32 * n : 32 * n + 32] for q, (_, n) in zip(queries, heads, strict=True)
                ]
                np.testing.assert_allclose(found.queries, expected, atol=2e-3)
                cache = torch.from_numpy(encoded[window])
                keys = [unpacked(cache[2 * n, head]).T.numpy() for n, head in heads]
                assert np.array_equal(found.keys, keys)
    hypotheses.release()


def test_hypotheses_that_are_reordered_are_those_decoded_anew(
    engine: Engine, features: Array
) -> None:
    encoded, beams = engine.encode(features), 3
    random = np.random.default_rng(1)
    hypotheses = engine.start(encoded)
    hypotheses.step(rows(PROMPT, 2))
    hypotheses.expand_beams(beams)
    texts = rows(PROMPT, 2 * beams)
    for _ in range(6):
        ids = random.integers(280, 340, (2 * beams, 1))
        found = last(hypotheses, ids)
        texts = np.concatenate([texts, ids], 1)
        for row, text in enumerate(texts):
            alone = engine.start(encoded[row // beams : row // beams + 1])
            assert np.allclose(last(alone, text[None])[0], found[row], atol=2e-3)
            alone.release()
        within = random.integers(0, beams, 2 * beams)
        order = within + np.arange(2).repeat(beams) * beams
        hypotheses.reorder(order)
        texts = texts[order]
    hypotheses.release()


def test_caches_are_used_again_and_windows_may_start_again(engine: Engine, features: Array) -> None:
    encoded = engine.encode(features[:1])
    first = engine.start(encoded)
    expected = [last(first, rows(PROMPT, 1)), last(first, rows([320], 1))]
    first.release()
    other = engine.start(engine.encode(features[1:]))
    assert not np.array_equal(last(other, rows(PROMPT, 1)), expected[0])
    other.release()
    again = engine.start(encoded)
    found = [last(again, rows(PROMPT, 1)), last(again, rows([320], 1))]
    assert all(map(np.array_equal, found, expected))
    again.release()
