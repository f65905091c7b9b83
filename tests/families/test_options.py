"""Options of long recordings are followed by the original and by every cut alike."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from exporter.families.whisper import family as whisper
from exporter.recipe import Decoding
from exporter.runtime.transcript import Transcript
from tests.support.whisper import multilingual, opened, sounds

OPTIONS: list[dict[str, Any]] = [
    {"condition_on_previous": True, "initial_prompt": "red"},
    {"hotwords": "green", "num_beams": 2},
    {"logprob_threshold": -0.5, "no_speech_threshold": 0.0},
    {"temperatures": (0.0, 1e-6), "compression_ratio_threshold": 0.5, "batch_size": 2},
]
BEYOND: list[dict[str, Any]] = [
    {"prefix": "red blue"},
    {"no_speech_threshold": 0.0},
    {"num_beams": 2, "patience": 2.0},
    {"temperatures": (0.7,)},
    {"temperatures": (0.7,), "best_of": 3},
    {"condition_on_previous": True, "initial_prompt": "red", "hotwords": "green"},
    {"language": None, "multilingual": True},
    {"language": None, "language_detection_segments": 3, "language_detection_threshold": 1.0},
]
SECONDS = (1.0, 2.0, 9.0)


def said(folder: Path, kind: str, decoding: Decoding) -> list[Transcript]:
    model = whisper.open_original(folder) if kind == "original" else opened(folder, kind)
    return whisper.transcribe(model, whisper.processor(folder), sounds(*SECONDS), decoding)


@cache
def expected(folder: Path, decoding: Decoding) -> list[Transcript]:
    return said(folder, "original", decoding)


def spoken(transcripts: list[Transcript]) -> list[Any]:
    """Texts, tokens and times, without the scores that `generate` does not tell."""
    return [
        (one.text, one.tokens, [(s.start_s, s.end_s, s.text) for s in one.segments])
        for one in transcripts
    ]


@pytest.mark.parametrize("kind", ["dynamic", "static", "eager"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(tiny_whisper: Path, kind: str, options: dict[str, Any]) -> None:
    decoding = multilingual(timestamps=True, **options)
    found = said(tiny_whisper, kind, decoding)
    assert spoken(found) == spoken(expected(tiny_whisper, decoding))
    told = {name for one in found for segment in one.segments for name in segment.to_dict()}
    if "temperatures" in options:  # cold ones draw what a search finds
        assert {"compression_ratio", "temperature"} < told
    else:
        assert spoken(found) != spoken(expected(tiny_whisper, multilingual(timestamps=True)))
        assert told <= {"start_s", "end_s", "text"}


@pytest.mark.parametrize("kind", ["original", "dynamic"])
def test_cold_draws_are_searches(tiny_whisper: Path, kind: str) -> None:
    decoding = multilingual(temperatures=(1e-6,))
    assert [one.text for one in said(tiny_whisper, kind, decoding)] == [
        one.text for one in expected(tiny_whisper, multilingual())
    ]


@pytest.mark.parametrize("kind", ["dynamic", "eager"])
@pytest.mark.parametrize("options", BEYOND, ids=str)
def test_options_that_generate_lacks(
    tiny_whisper: Path, kind: str, options: dict[str, Any]
) -> None:
    """The original follows them too, and draws what artifacts draw."""
    decoding = Decoding.model_validate(
        {"language": "en", "task": "transcribe", "timestamps": True, **options}
    )
    found = said(tiny_whisper, kind, decoding)
    assert spoken(found) == spoken(expected(tiny_whisper, decoding))
    if "language" not in options:
        assert spoken(found) != spoken(expected(tiny_whisper, multilingual(timestamps=True)))
