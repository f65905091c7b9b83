"""Reading real recordings: formats, rates, channels, and what is refused."""

import io
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

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


def test_duration_is_that_of_what_can_be_decoded(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_bytes_and_open_files_give_what_the_file_gives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([tone(44100), tone(44100)], axis=1), 44100)
    expected = audio.read(path, 16000)
    encoded = path.read_bytes()
    piped, writing = os.pipe()
    os.write(writing, encoded[:60_000])
    os.close(writing)
    whole = len(encoded) <= 60_000
    with path.open("rb") as file, os.fdopen(piped, "rb") as pipe:
        given: list[Any] = [str(path), encoded, bytearray(encoded), memoryview(encoded), file]
        given += [io.BytesIO(encoded), *([pipe] if whole else [])]
        for each in given:
            assert np.array_equal(audio.load(each, 16000, None, "audio"), expected)


def test_files_in_odd_places(tmp_path: Path) -> None:
    """A name that is no text is a name like any other; one that cannot be is told."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav"))
    soundfile.write(tmp_path / "tone.wav", tone(16000), 16000)
    (tmp_path / "tone.wav").rename(odd)
    assert len(audio.read(odd, 16000)) == 16000
    (tmp_path / "samples.raw").write_bytes(bytes(3200))
    with pytest.raises(DataError, match=r"samples\.raw cannot be read as audio"):
        audio.read(tmp_path / "samples.raw", 16000)
    with pytest.raises(
        DataError, match=r"^audio file a{200} cannot be opened: File name too long$"
    ):
        audio.read("a" * 5000, 16000)


class Failing(io.RawIOBase):
    """A file on a disk that breaks."""

    def read(self, _size: int = -1) -> bytes:
        raise OSError(5, "Input/output error")


def test_bytes_and_open_files_that_are_no_audio(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    soundfile.write(tmp_path / "tone.wav", tone(16000), 16000)
    used_up = (tmp_path / "tone.wav").open("rb")
    used_up.read()
    cases = {
        "holds no bytes": [b"", io.BytesIO(), used_up],
        "cannot be read as audio": [b"hello", (tmp_path / "tone.wav").read_bytes()[:30]],
        "is a file of text": [(tmp_path / "text.txt").open()],
        "I/O operation on closed file": [closed := io.BytesIO(b"RIFF")],
        "Input/output error": [Failing()],
        "is of type int": [5],
        "is of type list": [[0.1, 0.2]],
    }
    closed.close()
    for words, several in cases.items():
        for each in several:
            with pytest.raises(DataError, match=rf"^audio\[7\] .*{words}"):
                audio.load(each, 16000, None, "audio[7]")


def streamed_wav(tmp_path: Path, riff: int, size: int) -> bytes:
    """A WAV as a program writes it into a pipe, which cannot go back to fill in the sizes."""
    soundfile.write(tmp_path / "tone.wav", tone(16000), 16000)
    whole = bytearray((tmp_path / "tone.wav").read_bytes())
    place = whole.index(b"data") + 4
    whole[4:8], whole[place : place + 4] = riff.to_bytes(4, "little"), size.to_bytes(4, "little")
    return bytes(whole)


@pytest.mark.parametrize("riff", [0, 36, 32_036, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("size", [0, 2**31 - 37, 2**32 - 1])
def test_a_wav_written_as_a_stream_is_read_to_its_end(tmp_path: Path, riff: int, size: int) -> None:
    written = streamed_wav(tmp_path, riff, size)
    expected = audio.read(tmp_path / "tone.wav", 16000)
    (tmp_path / "stream.wav").write_bytes(written)
    assert np.array_equal(audio.read(tmp_path / "stream.wav", 16000), expected)
    assert np.array_equal(audio.load(written, 16000, None, "audio"), expected)
    assert audio.duration_s(tmp_path / "stream.wav") == 1.0


def test_a_wav_without_audio_holds_none(tmp_path: Path) -> None:
    """Another chunk after no audio is not taken for audio."""
    head = streamed_wav(tmp_path, 0, 0)[:44]
    for rest in (b"", b"LIST" + (4).to_bytes(4, "little") + b"INFO"):
        (tmp_path / "none.wav").write_bytes(head + rest)
        for reading in (audio.duration_s, lambda path: audio.read(path, 16000)):
            with pytest.raises(DataError, match="holds no audio"):
                reading(tmp_path / "none.wav")


def test_a_flac_written_as_a_stream_is_read_to_its_end(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.flac", tone(16000), 16000)
    expected = audio.read(tmp_path / "tone.flac", 16000)
    streamed = bytearray((tmp_path / "tone.flac").read_bytes())
    streamed[21:26] = bytes([streamed[21] & 0xF0, 0, 0, 0, 0])  # the total of samples
    (tmp_path / "stream.flac").write_bytes(streamed)
    assert np.array_equal(audio.read(tmp_path / "stream.flac", 16000), expected)
    assert audio.duration_s(tmp_path / "stream.flac") == 1.0


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_long_file_is_decoded_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    """Its blocks are, to the bit, what decoding it at once gives."""
    path = tmp_path / "tone.wav"
    samples = np.stack([tone(rate, 3.5), tone(rate, 3.5)], axis=1)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    at_once = audio.read(path, 16000)
    assert not isinstance(at_once, audio.LongAudio)
    one = soxr.resample(samples.mean(axis=1).astype(np.float32), rate, 16000, quality="VHQ")
    assert np.array_equal(at_once, one)
    monkeypatch.setattr(audio, "WHOLE_S", 2)
    monkeypatch.setattr(audio.files, "_BLOCK_VALUES", 5000)
    sound = audio.read(path, 16000)
    assert isinstance(sound, audio.LongAudio)
    assert len(list(sound)) > 5
    for _ in range(2):
        assert np.array_equal(audio.whole(sound), at_once)
    assert np.array_equal(audio.head(sound, 20_000), at_once[:20_000])
    assert np.array_equal(audio.head(at_once, 20_000), at_once[:20_000])
    assert isinstance(audio.load(path.read_bytes(), 16000, None, "audio"), audio.LongAudio)


def test_memory_does_not_follow_the_length(tmp_path: Path) -> None:
    """A day of silence in a megabyte took 16 GB; eight minutes show that it does not any more."""
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for _ in range(8):
            file.write(np.zeros(16000 * 60, np.float32))
    tracemalloc.start()
    assert sum(map(len, audio.read(path, 16000))) == 8 * 60 * 16000
    assert audio.duration_s(path) == 8 * 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 << 20  # as a whole, it is 31 MB


def test_parts_of_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file in blocks as of its samples, whatever block a part begins in."""
    samples = np.arange(300_000, dtype=np.float32) / 300_000
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    monkeypatch.setattr(audio, "WHOLE_S", 2)
    stored = audio.read(tmp_path / "long.wav", 16_000)
    assert isinstance(stored, audio.LongAudio)
    spans = [(0, 5), (5, 6), (40_000, 200_000), (250_000, 300_000)]
    joined = np.concatenate([samples[start:stop] for start, stop in spans])
    for sound in (samples, stored):
        assert np.array_equal(audio.whole(audio.parts(sound, spans)), joined)
        groups = [spans[:2], spans[2:3], spans[3:]]
        found = list(audio.excerpts(sound, groups))
        assert [len(part) for part in found] == [6, 160_000, 50_000]
        assert np.array_equal(np.concatenate(found), joined)
    assert not len(audio.whole(audio.parts(samples, [])))
    soundfile.write(tmp_path / "long.wav", samples[:220_000], 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"long\.wav changed while it was read"):
        list(audio.excerpts(stored, groups))
