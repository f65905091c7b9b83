"""`transcribe` and `transcribe_iter` as people call them, with a real artifact and an original."""

import io
import shutil
import weakref
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import exporter
from exporter import Recogniser, Transcript
from exporter.errors import DataError, RecipeError
from exporter.formats import audio as audio_files
from tests.support.golden import GOLDEN
from tests.support.tiny import make_whisper

RATE = 16_000
WHOLE = np.round(3000 * np.sin(np.arange(12_000) * 0.2)).astype(np.int16)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(RATE * seconds))
    return samples.astype(np.float32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    """An onnx-int8 artifact of an earlier release; copied, since a checkout may be of links."""
    folder = tmp_path_factory.mktemp("golden") / "onnx-int8"
    return exporter.load(shutil.copytree(GOLDEN / "v1-onnx-int8", folder), threads=1)


@pytest.fixture(scope="module")
def original(tiny_whisper: Path) -> Recogniser:
    """A multilingual checkpoint, which knows languages and tasks."""
    return exporter.load_original(tiny_whisper, threads=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "tone.wav"
    soundfile.write(path, WHOLE, RATE)
    return path


@pytest.fixture(scope="module")
def expected(artifact: Recogniser, clip: Path) -> Transcript:
    """What the artifact says of the clip; as every other clip, it is one sentence."""
    transcript = artifact.transcribe(clip)
    assert isinstance(transcript, Transcript)
    assert len(str(transcript).split()) == 6
    return transcript


FLOATS = WHOLE / np.float32(1 << 15)
ARRAYS = {
    "int16": WHOLE,
    "float32": FLOATS,
    "float64": FLOATS.astype(np.float64),
    "int32": WHOLE.astype(np.int32) << 16,
    "channels first": np.stack([WHOLE, WHOLE]),
    "channels last": np.stack([FLOATS, FLOATS], axis=1),
    "tensor": torch.from_numpy(FLOATS),
    "int16 tensor": torch.from_numpy(WHOLE),
    "stereo tensor": torch.from_numpy(np.stack([FLOATS, FLOATS])),
}


@pytest.mark.parametrize("form", ARRAYS)
def test_every_form_of_samples_gives_the_files_text(
    artifact: Recogniser, expected: Transcript, form: str
) -> None:
    assert artifact.transcribe(ARRAYS[form], sampling_rate=RATE) == expected


def test_every_form_of_a_file_gives_its_text(
    artifact: Recogniser, expected: Transcript, clip: Path
) -> None:
    encoded = clip.read_bytes()
    with clip.open("rb") as file:
        for given in (str(clip), encoded, bytearray(encoded), file, io.BytesIO(encoded)):
            assert artifact.transcribe(given) == expected


def test_another_rate_is_resampled(artifact: Recogniser, expected: Transcript, clip: Path) -> None:
    high = np.interp(np.arange(36_000) / 3, np.arange(12_000), FLOATS)
    soundfile.write(clip.with_name("high.flac"), high, 48_000)
    assert artifact.transcribe(high, sampling_rate=48_000).text == expected.text
    assert artifact.transcribe(clip.with_name("high.flac")).text == expected.text


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_several_recordings_give_a_list_in_their_order(
    artifact: Recogniser, expected: Transcript, clip: Path, batch_size: int
) -> None:
    mixed: list[Any] = [clip, WHOLE, noise(1.0), clip.read_bytes(), torch.from_numpy(FLOATS)]
    how: dict[str, Any] = {"sampling_rate": RATE, "batch_size": batch_size}
    texts = [each.text for each in artifact.transcribe(mixed, **how)]
    other = artifact.transcribe(noise(1.0), sampling_rate=RATE).text
    assert texts == [expected.text, expected.text, other, expected.text, expected.text]
    assert [each.text for each in artifact.transcribe(iter(mixed), **how)] == texts
    assert [each.text for each in artifact.transcribe(tuple(mixed), **how)] == texts
    assert artifact.transcribe([]) == []
    assert artifact.transcribe([clip]) == [expected]


def test_a_transcript_prints_as_its_text(expected: Transcript) -> None:
    assert f"{expected}" == expected.text
    (segment,) = expected.segments
    assert (segment.start_s, segment.text) == (0.0, expected.text)


def test_options_are_keywords(tmp_path: Path) -> None:
    unsure = exporter.load_original(make_whisper(tmp_path / "unsure", certainty=2.0), threads=1)
    clips = [noise(2.0, seed) for seed in range(3)]

    def texts(**options: Any) -> list[str]:
        return [each.text for each in unsure.transcribe(clips, sampling_rate=RATE, **options)]

    plain = texts(language="en")
    assert texts(language="en", num_beams=np.int64(1)) == plain
    assert texts(language="en", num_beams=5) != plain
    assert texts(language="de", task="translate") != plain
    timed = unsure.transcribe(clips[0], sampling_rate=RATE, language="en", timestamps=True)
    assert timed.segments
    assert timed.text != plain[0]  # these weights let times take the place of words


def test_what_is_not_said_is_the_recipes(tiny_whisper: Path) -> None:
    from exporter.recipe import Decoding

    wanted = Decoding(language="en", num_beams=5, timestamps=True)
    original = exporter.load_original(tiny_whisper, threads=1, decoding=wanted)
    (expected,) = original.decode([noise(2.0)], wanted)
    assert original.transcribe(noise(2.0), sampling_rate=RATE) == expected
    greedy = wanted.model_copy(update={"num_beams": 1})
    (expected,) = original.decode([noise(2.0)], greedy)
    assert original.transcribe(noise(2.0), sampling_rate=RATE, num_beams=1) == expected


WRONG = {
    "num_beams: expected greater than or equal to 1, got 0": {"num_beams": 0},
    "num_beams: expected a whole number, got the text '5'": {"num_beams": "5"},
    "timestamps: expected true or false, got 1": {"timestamps": 1},
    "task: .*; did you mean 'transcribe'?": {"task": "transcrib"},
    "the checkpoint has no language 'English': did you mean 'en'?": {"language": "English"},
    "options are text, numbers, true or false": {"language": Path("en")},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_value_is_told_as_a_recipes(original: Recogniser, words: str) -> None:
    with pytest.raises(RecipeError, match=rf"^{words}"):
        original.transcribe_iter([], **WRONG[words])  # before anything is read


def test_an_unknown_option_is_a_type_error(original: Recogniser) -> None:
    known = "known: batch_size, .*, length_penalty, .*, num_beams, .*, timestamps, .*"
    told = r"an unknown option 'num_beam'; did you mean 'num_beams'\?$"
    with pytest.raises(TypeError, match=told):
        original.transcribe("speech.wav", num_beam=5)
    with pytest.raises(TypeError, match=rf"'decoding'; {known}$"):
        original.transcribe_iter([], decoding=None)


@pytest.mark.parametrize("given", [None, 5, {"array": WHOLE, "sampling_rate": RATE}])
def test_what_is_neither_a_recording_nor_several(artifact: Recogniser, given: Any) -> None:
    with pytest.raises(DataError, match=r"^audio is of type \w+: give a path, .* an iterable"):
        artifact.transcribe(given)


def test_errors_name_the_recording(artifact: Recogniser, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^audio is an array.*sampling_rate"):
        artifact.transcribe(WHOLE)
    with pytest.raises(DataError, match=r"^audio\[1\] is an array"):
        artifact.transcribe([clip, WHOLE])
    with pytest.raises(DataError, match=r"^audio\[1\] holds no samples"):
        artifact.transcribe([clip, WHOLE[:0]], sampling_rate=RATE)
    with pytest.raises(DataError, match=rf"^audio file {tmp_path}/absent.wav does not exist"):
        artifact.transcribe([clip, tmp_path / "absent.wav"])
    with pytest.raises(DataError, match=r"^sampling_rate=0: "):
        artifact.transcribe(WHOLE, sampling_rate=0)


@pytest.mark.parametrize("size", [1, 3])
def test_no_more_than_a_batch_is_read_or_held(artifact: Recogniser, size: int) -> None:
    """By a generator that never ends, and sees how many of its recordings are still alive."""
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for seed in count():
            alive.append(sum(each() is not None for each in made))
            recording = noise(0.3, seed)
            made.append(weakref.ref(recording))
            yield recording
            del recording

    results = artifact.transcribe_iter(endless(), sampling_rate=RATE, batch_size=size)
    assert made == []
    for done in range(1, 2 * size + 2):
        assert next(results).text
        assert len(made) == -(-done // size) * size
    assert max(alive) < size


def test_long_arrays_are_not_gathered(
    original: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batch: they are decoded one by one, so more of them are not held."""
    monkeypatch.setattr(audio_files, "WHOLE_S", 3)
    made = []

    def recordings() -> Iterator[np.ndarray]:
        for seconds in (0.5, 0.5, 6.0, 6.0, 0.5, 0.5):
            made.append(seconds)
            yield noise(seconds, len(made))

    results = original.transcribe_iter(
        recordings(), sampling_rate=RATE, batch_size=64, language="en", task="transcribe"
    )
    read = []
    for _ in results:
        read.append(len(made))
    assert read == [3, 3, 3, 4, 6, 6]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_those_before_a_faulty_one_are_answered(
    artifact: Recogniser, expected: Transcript, clip: Path, size: int
) -> None:
    def failing() -> Iterator[Any]:
        yield from (clip, clip, clip)
        msg = "the caller's own"
        raise KeyError(msg)

    for source, error in (([clip, clip, clip, b"noise"], DataError), (failing(), KeyError)):
        results = artifact.transcribe_iter(source, batch_size=size)
        assert [next(results).text for _ in range(3)] == [expected.text] * 3
        with pytest.raises(error):
            next(results)


def test_one_recording_is_iterated_too(
    artifact: Recogniser, expected: Transcript, clip: Path
) -> None:
    assert list(artifact.transcribe_iter(str(clip))) == [expected]


def test_the_device_and_the_threads_are_checked(tmp_path: Path) -> None:
    for opening in (exporter.load, exporter.load_original):
        for device in ("tpu", "", "cpu:0", "gpu"):
            with pytest.raises(RecipeError, match=r"^device='.*': give 'cpu' or 'cuda', or leave"):
                opening(tmp_path, device=device)
        with pytest.raises(RecipeError, match=r"(?s)^device='cuda:1': .* CUDA_VISIBLE_DEVICES=1 "):
            opening(tmp_path, device="cuda:1")
        for threads in (0, -1, 1.5, "2", 5_000, 10**10):
            with pytest.raises(RecipeError, match=r"^threads=.* from 1 to \d+, or leave it out$"):
                opening(tmp_path, threads=threads)  # type: ignore[arg-type]
