"""Transcripts of originals are kept: each clip is heard once for all artifacts and runs."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact.report import Report
from exporter.cli import main
from exporter.cli.validate import _verdict
from exporter.recognition import kept
from exporter.recognition.kept import Kept, file_of
from exporter.validate.measure import transcripts
from exporter.validate.measure.model import OpenModel

Judge = Callable[..., list[Report]]
HEARD = [{"text": "red\ud800", "tokens": 2, "distinct": [1, 2]}]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were opened: originals by that name, artifacts by theirs."""
    names: list[str] = []
    opening = OpenModel.__init__

    def noted(self: OpenModel, spec: Any, progress: Any) -> None:
        names.append("original" if spec.original else spec.model.name)
        opening(self, spec, progress)

    monkeypatch.setattr(OpenModel, "__init__", noted)
    return names


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each batch of the transcription pass, whether a model was asked."""
    asked: list[bool] = []
    real = transcripts._heard

    def noted(opened: Callable[[], OpenModel], *how: Any) -> Any:
        def model() -> OpenModel:
            asked.append(opened().spec.original)
            return opened()

        return real(model, *how)

    monkeypatch.setattr(transcripts, "_heard", noted)
    return asked


def the_file(place: Path) -> Path:
    (found,) = (place / "cache" / "transcripts").iterdir()
    return found


def test_an_original_is_heard_once_for_all_runs(
    judged: Judge, tmp_path: Path, heard: list[bool]
) -> None:
    (first,) = judged("first")
    assert (first.reference.kept, heard.count(True), heard.count(False)) == (0, 7, 7)
    assert "kept" not in (tmp_path / "first" / "report.json").read_text()
    assert the_file(tmp_path).stat().st_mode & 0o077 == 0
    heard.clear()
    (again,) = judged("again")
    assert (again.reference.kept, heard.count(True), heard.count(False)) == (7, 0, 7)
    assert again.predictions_sha256 == first.predictions_sha256
    assert "Of the original, 7 of 7 transcripts were kept from earlier runs." in _verdict(again)
    assert "7 clips are kept ones" in (tmp_path / "again" / "report.html").read_text()


def test_the_originals_times_are_never_kept(judged: Judge, opened: list[str]) -> None:
    """It is opened to be timed, and not again by workers who would find all kept."""
    judged("first", workers=2)
    assert opened == ["original", "first", "original", "original", "first", "first"]
    opened.clear()
    (again,) = judged("again", workers=2)
    assert opened == ["original", "again", "again", "again"]
    assert again.reference_figures.latency_median_s > 0


@pytest.mark.parametrize("damage", ["flipped", "cut off", "no text"])
def test_a_damaged_transcript_is_heard_again(
    damage: str,
    judged: Judge,
    tmp_path: Path,
    heard: list[bool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (first,) = judged("first")
    file = the_file(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    if damage == "flipped":
        lines[3] = lines[3].replace(b'"tokens": ', b'"tokens": 1')
    elif damage == "cut off":
        lines[-1] = lines[-1][:-20]
    else:
        lines[2] = b"\0" * (len(lines[2]) - 1) + b"\n"
    file.write_bytes(b"".join(lines))
    heard.clear()
    (again,) = judged("again")
    assert (again.reference.kept, heard.count(True)) == (6, 1)
    assert ("are damaged" in caplog.text) == (damage != "no text")
    assert again.predictions_sha256 == first.predictions_sha256
    assert judged("third")[0].reference.kept == 7


def test_what_others_can_write_is_not_trusted(
    judged: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judged("first")
    (tmp_path / "cache" / "transcripts").chmod(0o777)
    (again,) = judged("again")
    assert again.reference.kept == 0
    assert "writable by others" in caplog.text


def test_a_run_goes_on_where_nothing_can_be_kept(
    judged: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    (told,) = judged("one")
    assert told.data.clips == 7
    assert "no transcripts of the original are kept" in caplog.text


def test_the_cache_lists_and_clears_them(
    judged: Judge, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    judged("one")
    size = the_file(tmp_path).stat().st_size
    capfd.readouterr()
    assert main(["cache", "--json"]) == 0
    (entry,) = json.loads(capfd.readouterr().out)["entries"]
    assert entry["what"].startswith("transcripts of tiny-whisper")
    assert entry["size_bytes"] == size
    assert main(["cache"]) == 0
    assert "transcripts of tiny-whisper" in capfd.readouterr().out
    assert main(["cache", "--clear", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["freed_bytes"] == size
    assert not list((tmp_path / "cache" / "transcripts").iterdir())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_all_that_decides_what_is_heard_names_the_file(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = file_of("a" * 64, "whisper", {"num_beams": 1}, "mine")
    assert one is not None
    assert one == file_of("a" * 64, "whisper", {"num_beams": 1}, "called otherwise")
    others: Sequence[tuple[Any, ...]] = (
        ("b" * 64, "whisper", {"num_beams": 1}),
        ("a" * 64, "ctc", {"num_beams": 1}),
        ("a" * 64, "whisper", {"num_beams": 2}),
    )
    found = [file_of(*other, "mine") for other in others]
    monkeypatch.setattr(kept.hardware, "versions_of", lambda _: {"torch": "9"})
    found.append(file_of("a" * 64, "whisper", {"num_beams": 1}, "mine"))
    assert len({one, *found}) == 5


def test_the_newest_of_equal_batches_counts(place: Path) -> None:
    path = file_of("a" * 64, "whisper", {}, "mine")
    assert path is not None
    store = Kept(path)
    store.put([["sound", None]], HEARD)
    assert store.get([["sound", None]]) is None  # what a process has heard, it does not ask again
    assert Kept(path).get([["sound", None]]) == HEARD
    newer = [{**HEARD[0], "tokens": 3}]
    store.put([["sound", None]], newer)
    assert Kept(path).get([["sound", None]]) == newer
    for other in ([["sound", "en"]], [["other", None]], [["sound", None], ["sound", None]]):
        assert Kept(path).get(other) is None


def test_a_full_disk_keeps_no_more(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = file_of("a" * 64, "whisper", {}, "mine")
    assert path is not None
    store = Kept(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "_append", full)
    with caplog.at_level(logging.WARNING):
        store.put([["a", None]], HEARD)
        store.put([["b", None]], HEARD)
    assert caplog.text.count("No space left") == 1
