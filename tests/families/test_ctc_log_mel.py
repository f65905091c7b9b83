"""Parakeet's features and text are those of transformers' own classes."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from exporter.errors import CheckpointError
from exporter.families import FAMILIES
from tests.support.tiny_ctc import make_ctc, tones

FAMILY = FAMILIES["ctc"]
# The package gives a stub where librosa is not installed.
theirs = importlib.import_module("transformers.models.parakeet.feature_extraction_parakeet")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ctc(tmp_path_factory.mktemp("parakeet") / "checkpoint", "parakeet_ctc")


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """transformers' extractor, with its own filters in the place of librosa's."""

    def mel(sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float, norm: str) -> object:
        bank = mel_filter_bank(n_fft // 2 + 1, n_mels, fmin, fmax, sr, norm, "slaney")
        return bank.T.astype(np.float32)

    librosa = SimpleNamespace(filters=SimpleNamespace(mel=mel))
    monkeypatch.setattr(theirs, "librosa", librosa, raising=False)
    return theirs.ParakeetFeatureExtractor()


@pytest.mark.parametrize("samples", [320, 479, 5_000, 16_001])
def test_features_are_those_that_its_mask_shows(
    checkpoint: Path, extractor: Any, samples: int
) -> None:
    sound = tones(samples / 16_000) + np.random.default_rng(0).normal(0, 0.01, samples)
    sound = sound.astype(np.float32)
    made = extractor(sound, sampling_rate=16_000, return_tensors="pt")
    processor = FAMILY.processor(checkpoint)
    ours = FAMILY.forcing.window_features(processor, [sound])
    shown = int(made.attention_mask.sum())
    torch.testing.assert_close(ours, made.input_features[:, :shown], atol=2e-4, rtol=1e-4)
    original = FAMILY.open_original(checkpoint)
    with torch.inference_mode():
        masked = original(made.input_features, made.attention_mask).logits
        whole = original(made.input_features[:, :shown]).logits
    torch.testing.assert_close(whole, masked[:, : whole.shape[1]], atol=3e-5, rtol=1e-5)


def test_text_is_that_of_its_tokenizer(checkpoint: Path) -> None:
    processor = FAMILY.processor(checkpoint)
    tokenizer, alphabet = processor.tokenizer, processor.alphabet
    frames = [15, 2, 2, 15, 4, 4, 15, 4, 0, 3, 3, 7, 15, 15, 1, 5]
    text = alphabet.text(alphabet.tokens(frames))
    assert text == "aaa cad b"
    assert tokenizer.decode(frames, skip_special_tokens=True) == text


def test_settings_of_other_features_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for other, told in {
        '{"feature_extractor_type": "ParakeetFeatureExtractor", "hop_length": 80}': "hop_length",
        '{"feature_extractor_type": "ParakeetFeatureExtractor", "feature_size": 40}': "40 numbers",
        '{"feature_extractor_type": "SeamlessM4TFeatureExtractor"}': "needs ParakeetFeature",
        "{}": "needs ParakeetFeatureExtractor",
    }.items():
        folder = make_ctc(tmp_path / str(len(list(tmp_path.iterdir()))), "parakeet_ctc")
        (folder / "preprocessor_config.json").write_text(other)
        with pytest.raises(CheckpointError, match=told):
            FAMILY.processor(folder)
