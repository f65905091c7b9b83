"""Our log-mel features are those of transformers' extractor, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from exporter.errors import DataError
from exporter.families.whisper.decoding.log_mel import log_mel
from exporter.families.whisper.decoding.long_features import LongFeatures
from exporter.formats import audio
from exporter.runtime.transcript import Audio, Sound

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


HOP = 160
# Windows that end with the recording, a frame after it, and with few frames left.
LENGTHS = [1, 401, 3 * HOP, 2800 * HOP, 2831 * HOP + 3, 2833 * HOP - 1]


@pytest.mark.parametrize("samples", LENGTHS)
def test_windows_of_a_long_recording(samples: int) -> None:
    """Each is what transformers computes of the whole; `generate` moves on by any step."""
    extractor = WhisperFeatureExtractor(chunk_length=WINDOW_S)
    fading = noise(SAMPLES + samples) * np.linspace(0, 3, SAMPLES + samples, dtype=np.float32)
    check_windows(extractor, fading, fading)


def check_windows(extractor: WhisperFeatureExtractor, sound: Sound, samples: Audio) -> None:
    whole = extractor(
        [samples], sampling_rate=16000, truncation=False, padding="longest", return_tensors="pt"
    ).input_features
    mel = log_mel(extractor)
    assert mel is not None
    ours = LongFeatures(mel, sound, torch.device("cpu"))
    assert ours.shape == whole.shape
    window, frames = extractor.nb_max_frames, whole.shape[-1]
    assert torch.equal(ours[:, :, :window], whole[:, :, :window])  # to detect the language
    seek, steps = 0, [window, 2, window // 2, window - 2, 20]
    while seek < frames:
        stop = min(seek + window, frames)
        part = ours[slice(0, 1), slice(None), slice(torch.tensor(seek), torch.tensor(stop))]
        assert torch.equal(part, whole[:, :, seek:stop])
        steps.append(steps.pop(0))
        seek += steps[-1]


def test_windows_of_a_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decoded and resampled anew for each pass, in blocks."""
    monkeypatch.setattr(audio, "WHOLE_S", 30)
    samples = noise(22_050 * (audio.WHOLE_S + 1))
    soundfile.write(tmp_path / "long.flac", samples, 22_050)
    sound = audio.read(tmp_path / "long.flac", 16000)
    assert isinstance(sound, audio.LongAudio)
    extractor = WhisperFeatureExtractor(chunk_length=30)
    check_windows(extractor, sound, audio.whole(sound))


def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "WHOLE_S", 2)
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(16_000 * 70), 16_000)
    mel = log_mel(WhisperFeatureExtractor(chunk_length=WINDOW_S))
    assert mel is not None
    features = LongFeatures(mel, audio.read(path, 16000), torch.device("cpu"))
    soundfile.write(path, noise(16_000), 16_000)
    with pytest.raises(DataError, match=r"long\.wav changed while it was read"):
        features[:, :, :200]
