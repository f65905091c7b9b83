"""Transcripts in the formats of players and tables."""

import json
from dataclasses import replace

import pytest

from exporter.runtime.subtitles import FORMATS, clock, lines_of
from exporter.runtime.transcript import Segment, Transcript

TRANSCRIPT = Transcript(
    " one <b>\n two & three",
    (1, 2, 3),
    (Segment(0.0, 1.5, " one <b>\n"), Segment(3661.0, 3662.0625, " two & -->\tthree")),
)
EXPECTED = {
    "text": [" one <b>\n two & three".strip()],
    "srt": [
        *("1", "00:00:00,000 --> 00:00:01,500", "one <b>", ""),
        *("2", "01:01:01,000 --> 01:01:02,062", "two & --> three", ""),
    ],
    "vtt": [
        *("WEBVTT", "", "00:00:00.000 --> 00:00:01.500", "one &lt;b&gt;", ""),
        *("01:01:01.000 --> 01:01:02.062", "two &amp; --&gt; three", ""),
    ],
    "tsv": ["start\tend\ttext", "0\t1500\tone <b>", "3661000\t3662062\ttwo & --> three"],
}


@pytest.mark.parametrize("form", EXPECTED)
def test_lines(form: str) -> None:
    assert lines_of(TRANSCRIPT, form, "a.wav") == EXPECTED[form]


def test_json_has_the_exact_text() -> None:
    (line,) = lines_of(TRANSCRIPT, "jsonl", "a.wav")
    assert json.loads(line) == json.loads("\n".join(lines_of(TRANSCRIPT, "json", "a.wav")))
    assert json.loads(line)["text"] == TRANSCRIPT.text
    assert {*FORMATS} == {*EXPECTED, "json", "jsonl"}
    assert not {name for name in json.loads(line) if name.startswith("language")}


def test_json_has_the_language_and_the_probability_of_one_that_was_found() -> None:
    given, found = (
        replace(TRANSCRIPT, language="en", language_probability=chance) for chance in (None, 0.75)
    )
    (line,) = lines_of(given, "jsonl", "a.wav")
    assert [*json.loads(line)] == ["audio", "text", "language", "segments"]
    (line,) = lines_of(found, "jsonl", "a.wav")
    told = json.loads(line)
    assert (told["language"], told["language_probability"]) == ("en", 0.75)


def test_times_carry() -> None:
    assert clock(59.9996, ",") == "00:01:00,000"
    assert clock(360_000.0, ".") == "100:00:00.000"
