"""CTC models hear speech span by span: the original, and what runs a graph."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.errors import RecipeError
from exporter.families import FAMILIES
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio, Transcript
from exporter.runtime.vad.spans import SpeechRules, find_speech

FAMILY, RATE = FAMILIES["ctc"], 16_000
VAD = Decoding(vad=True, vad_min_silence_s=1.0)


@pytest.fixture(scope="module")
def opened(repository: Path) -> tuple[Any, Any]:
    folder = repository / "recipes/demo/ctc"
    return FAMILY.open_original(folder), FAMILY.processor(folder)


@pytest.fixture(scope="module")
def speech(repository: Path) -> Audio:
    """Two sentences with three seconds of quiet noise between."""
    pause = np.random.default_rng(0).normal(0, 0.001, 3 * RATE).astype(np.float32)
    clips = [
        soundfile.read(repository / f"recipes/demo/clips/short-0{n}.flac", dtype="float32")[0]
        for n in (10, 20)
    ]
    return np.concatenate([pause, clips[0], pause, clips[1], pause])


def test_each_span_is_a_segment(opened: tuple[Any, Any], speech: Audio, tmp_path: Path) -> None:
    spans = find_speech(speech, RATE, SpeechRules(min_silence_s=1.0, max_speech_s=30))
    assert len(spans) == 2
    alone = [speech[start:stop] for start, stop in spans]
    expected = FAMILY.transcribe(*opened, alone, Decoding())
    (found,) = FAMILY.transcribe(*opened, [speech], VAD)
    assert found.text == " ".join(one.text for one in expected)
    assert found.tokens == expected[0].tokens + expected[1].tokens
    times = [(one.start_s, one.end_s, one.text) for one in found.segments]
    assert times == [
        (round(start / RATE, 3), round(stop / RATE, 3), one.text)
        for (start, stop), one in zip(spans, expected, strict=True)
    ]
    soundfile.write(tmp_path / "speech.wav", speech, RATE, subtype="FLOAT")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "WHOLE_S", 3)
        stored = audio.read(tmp_path / "speech.wav", RATE)
        assert isinstance(stored, audio.LongAudio)
        assert FAMILY.transcribe(*opened, [stored], VAD) == [found]


def test_without_speech_there_is_no_text(opened: tuple[Any, Any]) -> None:
    quiet = np.random.default_rng(1).normal(0, 0.01, 5 * RATE).astype(np.float32)
    assert FAMILY.transcribe(*opened, [quiet], VAD) == [Transcript("", (), ())]


def test_long_speech_is_cut(opened: tuple[Any, Any], speech: Audio) -> None:
    decoding = VAD.model_copy(update={"chunk_length_s": 2.0, "vad_speech_pad_s": 0.1})
    (found,) = FAMILY.transcribe(*opened, [speech], decoding)
    assert len(found.segments) > 2
    assert all(one.end_s - one.start_s <= 2 for one in found.segments)


def test_padding_without_room(opened: tuple[Any, Any]) -> None:
    configs = FAMILY.configs(opened[0])
    narrow = VAD.model_copy(update={"chunk_length_s": 2.0, "vad_speech_pad_s": 0.6})
    with pytest.raises(RecipeError, match=r"vad_speech_pad_s 0\.6: speech is cut into at most 2 s"):
        FAMILY.check_decoding(configs, narrow)
    chunked = VAD.model_copy(update={"long_form": "chunked"})
    with pytest.raises(RecipeError, match="this kind of model has no decoding option `long_form`"):
        FAMILY.check_decoding(configs, chunked)
