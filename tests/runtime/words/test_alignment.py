"""Alignment by attention, against transformers' median filter and dynamic time warping."""

import numpy as np
import pytest
import torch
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from exporter.runtime.whisper.engine import Attention
from exporter.runtime.words.alignment import attended, first_places, median_filtered


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def theirs(matrix: np.ndarray) -> np.ndarray:
    """Where each token begins on transformers' path."""
    tokens, places = _dynamic_time_warping(-matrix.astype(np.float64))
    new = np.pad(np.diff(tokens), (1, 0), constant_values=1).astype(bool)
    return places[new]


@pytest.mark.parametrize("length", [1, 3, 4, 6, 7, 50, 301])
def test_medians(length: int) -> None:
    values = drawn(5, length)
    expected = _median_filter(torch.from_numpy(values)[None], 7)[0].numpy()
    assert np.array_equal(median_filtered(values), expected)


def test_medians_of_every_order() -> None:
    """A network that sorts all zeros and ones sorts everything."""
    values = np.array([[n >> bit & 1 for bit in range(7)] for n in range(128)], np.float32)
    assert np.array_equal(median_filtered(values)[:, 3], np.median(values, 1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (5, 1), (5, 3), (8, 60), (30, 200)])
@pytest.mark.parametrize("seed", range(5))
def test_paths(shape: tuple[int, int], seed: int) -> None:
    matrix = drawn(*shape, seed=seed)
    assert first_places(matrix).tolist() == theirs(matrix).tolist()


def test_a_path_follows_a_ridge() -> None:
    matrix = np.full((6, 60), -1, np.float32)
    for token in range(6):
        matrix[token, 10 * token : 10 * token + 10] = 1
    assert first_places(matrix).tolist() == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("length", [2, 40, 100])
def test_weights_are_normalised_and_averaged(length: int) -> None:
    queries, keys = drawn(3, 7, 16), drawn(3, 16, 100, seed=1)
    scores = torch.from_numpy(queries) @ torch.from_numpy(keys)[:, :, :length]
    weights = scores.softmax(-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    expected = _median_filter(((weights - mean) / std), 7).mean(0).numpy()
    found = attended(Attention(drawn(7, 9), queries, keys), length)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_places_that_no_token_attends_to() -> None:
    keys = np.zeros((1, 2, 30), np.float32)
    keys[:, :, 15:] = -1e4
    found = attended(Attention(drawn(4, 9), np.ones((1, 4, 2), np.float32), keys), 30)
    assert np.isfinite(found).all()
