"""Reading real recordings: formats, rates, channels, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter.errors import DataError
from exporter.formats import audio


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_every_format_and_rate_gives_the_same_sound(tmp_path: Path, suffix: str, rate: int) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([tone(rate), tone(rate)], axis=1), rate)
    samples = audio.read(path, 16000)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 16000) <= 2500  # mp3 and ogg pad
    spectrum = np.abs(np.fft.rfft(samples[2000:14000]))
    assert abs(np.argmax(spectrum) * 16000 / 12000 - 440) < 3
    assert np.abs(samples[4000:12000]).max() == pytest.approx(0.5, abs=0.05)


def test_resampling_removes_what_the_lower_rate_cannot_hold(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "high.wav", tone(48000, hertz=11000), 48000, subtype="FLOAT")
    assert np.abs(audio.read(tmp_path / "high.wav", 16000)[1000:-1000]).max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    both = np.stack([tone(16000), -tone(16000), tone(16000)], axis=1)
    soundfile.write(tmp_path / "three.wav", both, 16000, subtype="FLOAT")
    assert audio.read(tmp_path / "three.wav", 16000) == pytest.approx(tone(16000) / 3, abs=1e-6)


def test_duration_comes_from_the_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.flac", tone(22050, 1.5), 22050)
    assert audio.duration_s(tmp_path / "tone.flac") == pytest.approx(1.5, abs=1e-4)


def test_bad_audio_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"hello" * 100)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "cut.flac", tone(16000), 16000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    for name in ("zero.wav", "text.wav", "empty.wav", "nan.wav", "cut.flac", "missing.wav"):
        with pytest.raises(DataError, match=name):
            audio.read(tmp_path / name, 16000)
    with pytest.raises(DataError, match="not a regular file"):
        audio.read(tmp_path, 16000)
    for name in ("zero.wav", "empty.wav", "missing.wav"):
        with pytest.raises(DataError, match=name):
            audio.duration_s(tmp_path / name)
