"""The engine of transformers' modules, with the audio's keys and values in float32 or in int8."""

from pathlib import Path

import numpy as np
import torch

from exporter.families.whisper import family as whisper
from exporter.families.whisper.engine.eager import eager_engine
from exporter.families.whisper.engine.engine import ArrayEngine
from tests.support.whisper import sounds


def test_compact_keys_and_values_give_nearly_the_same_logits(tiny_whisper: Path) -> None:
    """With a prompt, and with hypotheses that share a window."""
    model = whisper.open_original(tiny_whisper)
    features = whisper.processor(tiny_whisper).feature_extractor(
        sounds(1.0, 2.0), sampling_rate=16_000, return_tensors="np"
    )["input_features"]
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    heads = [(0, 0), (1, 1)]
    logits, keys = [], []
    for compact in (False, True):
        engine = ArrayEngine(eager_engine(model, compact=compact))
        encoded = engine.encode(features)
        assert encoded.dtype == (torch.uint8 if compact else torch.float32)
        rows = engine.start(encoded)
        first = rows.step(ids)
        rows.expand_beams(2)
        rows.reorder(np.array([1, 0, 2, 3]))
        logits.append([first, rows.step(np.array([[7], [8], [9], [10]]))])
        keys.append(engine.attend(encoded, 1, ids[0], heads).keys)
    for exact, near in zip(*logits, strict=True):
        assert exact.shape == near.shape
        assert 0 < np.abs(exact - near).max() < 0.02 * np.abs(exact).max()
    assert np.allclose(*keys, atol=0.01 * np.abs(keys[0]).max())
