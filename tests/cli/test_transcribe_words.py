"""`exporter transcribe --word-timestamps`: lines, subtitles and JSON of words."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.cli import main
from tests.support.built import build_tiny
from tests.support.golden import GOLDEN

WORD = re.compile(r"\[(\d\.\d\d) - (\d\.\d\d)\] (\w+)")


@pytest.fixture(scope="module")
def folder(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("words")
    (made,) = build_tiny(place, tiny_whisper, "[{kind: onnx-int8}]").values()
    tone = 0.1 * np.sin(np.arange(32_000) * 0.2)
    soundfile.write(place / "a.wav", tone, 16_000)
    soundfile.write(place / "long.wav", np.tile(tone, 5), 16_000)
    (place / "artifact").symlink_to(made)
    return place


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")


CALL = ["transcribe", "artifact", "--language", "en", "--word-timestamps"]
Captured = pytest.CaptureFixture[str]


def printed(capfd: Captured, *options: str, code: int = 0) -> str:
    capfd.readouterr()
    assert main([*CALL, *options]) == code
    return capfd.readouterr().out


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["a.wav", "long.wav"])
def test_words_in_every_format(name: str, capfd: Captured) -> None:
    words = [
        match.groups() for match in map(WORD.fullmatch, printed(capfd, name).splitlines()) if match
    ]
    assert len(words) > 2
    text = " ".join(word for _, _, word in words)
    (row,) = json.loads(printed(capfd, name, "--format", "json"))["transcripts"]
    assert json.loads(printed(capfd, name, "--format", "jsonl"))["segments"] == row["segments"]
    assert row["text"] == text
    found = [word for segment in row["segments"] for word in segment["words"]]
    assert [word["text"].strip() for word in found] == text.split()
    assert [f"{word['start_s']:.2f}" for word in found] == [start for start, _, _ in words]
    assert all(0 <= word["probability"] <= 1 for word in found)
    assert found[0].keys() == {"start_s", "end_s", "text", "probability"}
    cues = printed(capfd, name, "--format", "srt")
    assert cues.count("-->") == len(row["segments"])
    rows = printed(capfd, name, "--format", "tsv").splitlines()
    assert len(rows) == len(row["segments"]) + 1
    each = printed(capfd, name, "--format", "vtt", "--max-words-per-line", "1")
    assert [line for line in each.splitlines()[2:] if line.isalpha()] == text.split()
    marked = printed(capfd, name, "--format", "srt", "--highlight-words")
    assert re.findall(r"<u>(\w+)</u>", marked) == text.split()


@pytest.mark.usefixtures("here")
def test_lines_have_their_limits(capfd: Captured) -> None:
    limits = ("--max-line-width", "12", "--max-line-count", "2")
    cues = printed(capfd, "long.wav", "--format", "srt", *limits).strip().split("\n\n")
    assert len(cues) > 1
    for cue in cues:
        _, _, *lines = cue.splitlines()
        assert 1 <= len(lines) <= 2
        assert all(len(line) <= 12 for line in lines)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", [(), ("--format", "tsv"), ("--format", "json")])
def test_limits_are_for_subtitles_of_words(form: tuple[str, ...], capfd: Captured) -> None:
    assert main([*CALL, "a.wav", *form, "--max-line-width", "20"]) == 2
    assert main([*CALL[:-1], "a.wav", "--format", "srt", "--highlight-words"]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert sum(line.startswith("error: limits of lines") for line in errors) == 2
    assert len(errors) <= 4


@pytest.mark.usefixtures("here")
def test_an_earlier_artifact_says_what_to_do(tmp_path: Path, capfd: Captured) -> None:
    shutil.copytree(GOLDEN / "v1-onnx-int8", tmp_path / "old")
    assert main(["transcribe", str(tmp_path / "old"), "a.wav", "--word-timestamps"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: an earlier release built this artifact")
    assert "--force" in error
    assert len(error.splitlines()) == 2


RUN = """
import sys
import exporter
recogniser = exporter.load("artifact")
(transcript,) = recogniser.transcribe(["a.wav"], word_timestamps=True, language="en")
assert transcript.segments[0].words
heavy = {"torch", "transformers", "pydantic", "onnx", "huggingface_hub", "optimum"}
print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.usefixtures("here")
def test_words_need_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


@pytest.mark.usefixtures("here")
def test_both_roads_of_an_artifact_give_the_same_words() -> None:
    """Opened by numpy, and once more by torch."""
    import exporter

    recogniser = exporter.load("artifact")
    options: dict[str, Any] = {"word_timestamps": True, "language": "en"}
    first = recogniser.transcribe("a.wav", **options)
    assert recogniser.model is not None
    second = recogniser.transcribe("a.wav", **options)
    assert second.text == first.text
    for one, other in zip(first.segments, second.segments, strict=True):
        assert one.words is not None
        assert other.words is not None
        times = [(word.start_s, word.end_s) for word in one.words]
        assert times == [(word.start_s, word.end_s) for word in other.words]
