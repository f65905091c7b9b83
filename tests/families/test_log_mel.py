"""Our log-mel features are those of transformers' extractor, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from exporter.families.transcript import Audio
from exporter.families.whisper.decoding.log_mel import log_mel
from exporter.formats import audio

WINDOW_S = 2
SAMPLES = 16000 * WINDOW_S


def noise(samples: int, loudness: float = 0.1) -> Audio:
    return np.random.default_rng(samples).normal(0, loudness, samples).astype(np.float32)


def check(extractor: WhisperFeatureExtractor, sounds: list[Audio]) -> None:
    expected = extractor(sounds, sampling_rate=16000, return_tensors="pt").input_features
    ours = log_mel(extractor)
    assert ours is not None
    assert torch.equal(ours(sounds), expected)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize(
    "samples", [0, 1, 150, 200, 201, 1600, *range(SAMPLES - 401, SAMPLES, 40), SAMPLES]
)
def test_lengths(mels: int, samples: int) -> None:
    """The window's ends are reflected, and silence follows what is shorter."""
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=WINDOW_S)
    check(extractor, [noise(samples)])


def test_batches_of_unlike_sounds() -> None:
    """Each row keeps the range below its own loudest sound."""
    extractor = WhisperFeatureExtractor(chunk_length=WINDOW_S)
    silence = np.zeros(3000, np.float32)
    tone = np.sin(np.arange(9000, dtype=np.float32) / 7)
    check(extractor, [noise(SAMPLES), noise(5000, 1e-4), silence, tone, noise(SAMPLES // 2, 1e-6)])


def test_speech(repository: Path) -> None:
    extractor = WhisperFeatureExtractor(chunk_length=30)
    clips = sorted((repository / "recipes/demo/clips").glob("*.flac"))[::10]
    check(extractor, [audio.read(clip, 16000) for clip in clips])


def test_an_extractor_of_another_kind_is_left_alone() -> None:
    assert log_mel(WhisperFeatureExtractor(dither=1e-4)) is None
    assert log_mel(WhisperFeatureExtractor(padding_value=0.1)) is None
