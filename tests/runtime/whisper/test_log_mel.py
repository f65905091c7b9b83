"""Log-mel features: near transformers', and nearer than it to the same sums in float64."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from exporter.errors import DataError
from exporter.formats import audio
from exporter.runtime.mel import mel_filters
from exporter.runtime.transcript import Audio, Sound
from exporter.runtime.whisper.features.log_mel import LogMel
from exporter.runtime.whisper.features.long_log_mel import LongLogMel

WINDOW_S = 2
SAMPLES = 16_000 * WINDOW_S
HOP = 160


def noise(samples: int, loudness: float = 0.1) -> Audio:
    return np.random.default_rng(samples).normal(0, loudness, samples).astype(np.float32)


def theirs(samples: Audio, mels: int = 80, window_s: int = WINDOW_S) -> NDArray[np.float32]:
    """What transformers computes of a window."""
    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=window_s)
    features = extractor([samples], sampling_rate=16_000, return_tensors="np").input_features
    return np.asarray(features[0])


def exact(samples: Audio, mels: int = 80) -> NDArray[np.float64]:
    """The definition, written down in float64 without a fast transform."""
    window = np.zeros(SAMPLES)
    window[: len(samples)] = samples
    padded = np.pad(window, 200, mode="reflect")
    frames = np.stack([padded[start : start + 400] for start in range(0, SAMPLES, HOP)])
    places = np.arange(400)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * places / 400)
    waves = np.exp(-2j * np.pi * np.outer(places, np.arange(201)) / 400)
    powers = np.abs((frames * hann) @ waves) ** 2
    filters = WhisperFeatureExtractor(feature_size=mels).mel_filters
    logs = np.log10(np.maximum(powers @ filters, 1e-10)).T
    scaled: NDArray[np.float64] = (np.maximum(logs, logs.max() - 8) + 4) / 4
    return scaled


@pytest.mark.parametrize("mels", [80, 128])
def test_filters_are_transformers_own(mels: int) -> None:
    expected = WhisperFeatureExtractor(feature_size=mels).mel_filters
    assert np.allclose(mel_filters(mels, 16_000, 400).T, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize(
    "samples", [0, 1, 150, 200, 201, 1600, *range(SAMPLES - 401, SAMPLES, 80), SAMPLES]
)
def test_lengths(mels: int, samples: int) -> None:
    """The window's ends are reflected, and silence follows what is shorter."""
    sound = noise(samples)
    (ours,) = LogMel(mels, window_s=WINDOW_S)([sound])
    assert ours.dtype == np.float32
    assert ours.shape == theirs(sound, mels).shape
    assert np.abs(ours - theirs(sound, mels)).max() < 1e-4


def test_rounding_is_no_worse_than_transformers() -> None:
    """Loud and soft sounds, tones with silence between them, and silence alone."""
    tone = np.sin(np.arange(SAMPLES, dtype=np.float32) / 7)
    tone[5000:9000] = 0
    sounds = [noise(SAMPLES), noise(5000, 1e-4), np.zeros(3000, np.float32), tone]
    for sound, ours in zip(sounds, LogMel(window_s=WINDOW_S)(sounds), strict=True):
        right = exact(sound)
        error, usual = (np.abs(each - right).max() for each in (ours, theirs(sound)))
        assert error <= usual
        assert error < 2e-7


def test_speech(repository: Path) -> None:
    clips = sorted((repository / "recipes/demo/clips").glob("*.flac"))[::10]
    sounds = [audio.whole(audio.read(clip, 16_000)) for clip in clips]
    for sound, ours in zip(sounds, LogMel()(sounds), strict=True):
        assert np.abs(ours - theirs(sound, window_s=30)).max() < 1e-4


# Windows that end with the recording, a frame after it, and with few frames left.
LENGTHS = [1, 401, 3 * HOP, 2800 * HOP, 2831 * HOP + 3, 2833 * HOP - 1]


@pytest.mark.parametrize("samples", LENGTHS)
def test_windows_of_a_long_recording(samples: int) -> None:
    """Each is what the whole recording gives; decoding moves on by any step."""
    length = SAMPLES + samples
    fading = noise(length) * np.linspace(0, 3, length, dtype=np.float32)
    check_windows(fading, fading, WINDOW_S)


def check_windows(sound: Sound, samples: Audio, window_s: int) -> None:
    extractor = WhisperFeatureExtractor(chunk_length=window_s)
    whole = extractor(
        [samples], sampling_rate=16_000, truncation=False, padding="longest", return_tensors="np"
    ).input_features[0]
    ours = LongLogMel(LogMel(window_s=window_s), sound)
    assert ours.frames == whole.shape[-1]
    assert ours.samples == len(samples)
    alone = LongLogMel(LogMel(window_s=window_s), samples).part(0, ours.frames)
    window, frames = extractor.nb_max_frames, ours.frames
    seek, steps = 0, [window, 2, window // 2, window - 2, 20]
    while seek < frames:
        stop = min(seek + window, frames)
        part = ours.part(seek, stop)
        assert np.array_equal(part, alone[:, seek:stop])
        assert np.abs(part - whole[:, seek:stop]).max() < 1e-4
        steps.append(steps.pop(0))
        seek += steps[-1]
    assert np.array_equal(ours.part(0, 3), alone[:, :3])


def test_windows_of_a_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decoded and resampled anew for each pass, in blocks."""
    monkeypatch.setattr(audio, "WHOLE_S", 30)
    samples = noise(22_050 * (audio.WHOLE_S + 1))
    soundfile.write(tmp_path / "long.flac", samples, 22_050)
    sound = audio.read(tmp_path / "long.flac", 16_000)
    assert isinstance(sound, audio.LongAudio)
    check_windows(sound, audio.whole(sound), 30)


def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "WHOLE_S", 2)
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(16_000 * 70), 16_000)
    features = LongLogMel(LogMel(window_s=WINDOW_S), audio.read(path, 16_000))
    soundfile.write(path, noise(16_000), 16_000)
    with pytest.raises(DataError, match=r"long\.wav changed while it was read"):
        features.part(0, 200)
