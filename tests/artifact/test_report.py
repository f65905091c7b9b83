"""The report's schema, its file, the page and the predictions."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from exporter.artifact import report
from exporter.artifact.report import Report
from exporter.errors import IntegrityError, RecipeError
from exporter.validate.page import render as html_report
from exporter.validate.page.plots import latency_svg
from exporter.validate.scoring.compare import Comparison
from exporter.validate.scoring.wer import score
from tests.support.judging import SENTENCE, case
from tests.support.reports import DIGEST, made


@pytest.fixture(scope="module")
def one() -> Comparison:
    return case(hear=lambda index: SENTENCE if index % 3 else "turn <b>off</b>" + SENTENCE[7:])


def test_a_report_survives_its_file(tmp_path: Path, one: Comparison) -> None:
    written = report.write(tmp_path, made(one))
    assert report.read(tmp_path) == written
    assert written.model_copy(update={"sha256": ""}) == made(one)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_an_edit_shows(tmp_path: Path, one: Comparison) -> None:
    report.write(tmp_path, made(one))
    path = tmp_path / "report.json"
    path.write_text(path.read_text().replace('"threads": 2', '"threads": 3'))
    with pytest.raises(IntegrityError, match="was edited, or written by another version"):
        report.read(tmp_path)


def test_the_schema_is_closed_and_complete(one: Comparison) -> None:
    schema = Report.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["schema_version"]["const"] == 1
    assert set(schema["properties"]) == set(json.loads(made(one).model_dump_json()))
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False, name
    with pytest.raises(ValidationError):
        Report.model_validate({**made(one).model_dump(), "surprise": 1})
    with pytest.raises(ValidationError):
        made(one).verdict = "passed"


@pytest.mark.parametrize("text", ["", "{", "{}", '{"schema_version": 2}', "[" * 9999])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(IntegrityError, match="exporter validate"):
        report.read(tmp_path)
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"report\.json") as caught:
        report.read(tmp_path)
    assert len(str(caught.value).splitlines()) <= 3


def test_reports_have_places_of_their_own(tmp_path: Path) -> None:
    a, b, other = (tmp_path / name for name in ("x/a", "x/b", "y/a"))
    for folder in (a, b, other):
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    into = tmp_path / "reports"
    assert report.places([a, b], None) == [a, b]
    assert report.places([a], into) == [into]
    assert report.places([a, b], into) == [into / "a", into / "b"]
    assert report.places([a], a) == [a]
    for artifacts, place in (([a, other], into), ([a], b), ([a], a / "inside"), ([a, b], b / "c")):
        with pytest.raises(RecipeError, match="--report"):
            report.places(artifacts, place)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def a_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [a_pipe, a_huge_file, a_link])
def test_what_would_be_read_for_ever_is_refused(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / "report.json")
    with pytest.raises(IntegrityError, match=r"report\.json"):
        report.read(tmp_path)


def test_the_page_stands_alone_and_says_the_verdict_first(one: Comparison) -> None:
    html = html_report.render(made(one), one)
    assert not re.search(r"""(src|href)=|url\(|@import|<script""", html)
    assert html.count("<svg") == 2
    body = html[html.index("<body>") :]
    assert body.index("Failed") < body.index("<table>")
    assert DIGEST in html
    assert "org/&lt;name&gt;" in html
    assert "<b>off" not in html
    assert "substitution" in html
    assert html == html_report.render(made(one), one)


def test_the_page_shows_no_text_that_could_mislead() -> None:
    heard = "turn\u202eoff\x1b[2J \u2066the m\u06cc\u200c\u062e light"
    one = case(hear=lambda index: SENTENCE if index % 3 else heard)
    html = html_report.render(made(one), one)
    assert html.encode()
    assert not set("\u202e\x1b\u2066") & set(html)
    assert "turn\\u202eoff\\x1b[2J" in html
    assert "m\u06cc\u200c\u062e" in html


def test_the_page_without_a_change() -> None:
    same = case()
    html = html_report.render(made(same), same)
    assert "Every transcript is the same on both sides." in html
    assert "Passed" in html


def test_the_page_tells_how_many_clips_were_timed() -> None:
    every, some = case(), case(timed=range(0, 100, 5))
    html = html_report.render(made(every), every)
    assert "100 of the 100 clips were timed, each side alone<" in html
    html = html_report.render(made(some), some)
    assert "20 of the 100 clips were timed, each side alone, a sample of all durations" in html
    assert "with 2 threads: 20 of the 100 clips." in html
    assert html.count('class="clip"') == 20


def test_a_clip_in_a_hundred_microseconds_leaves_the_axis_title_free() -> None:
    """Labels of many digits end where those of few do, and the title stands before them."""
    fast = case(seconds=0.0001)
    picture = latency_svg(fast.reference.seconds, fast.candidate.seconds, 1.0)
    labels = re.findall(r'x="([0-9.]+)" [^>]*text-anchor="end">([0-9.e-]+)<', picture)
    assert "0.0005" in [label for _, label in labels]
    title_ends = 14 + 7
    assert all(float(x) - 7.8 * len(label) > title_ends for x, label in labels)


def test_the_page_fits_a_phone(one: Comparison) -> None:
    """What a browser laid out past the edge at 390 pixels: cells that could not shrink."""
    html = html_report.render(made(one), one)
    assert "minmax(0, 1fr)" in html
    assert html.count("<table>") == html.count('<div class="scroll"><table>')
    assert "artifact, 2030-01-01" in html
    assert not re.search(r"\ba (aoti|onnx)", html)


def test_reports_from_before_the_sample_keep_their_bytes(tmp_path: Path, one: Comparison) -> None:
    older = made(one).model_copy(update={"timed_clips": None})
    written = report.write(tmp_path, older)
    assert "timed_clips" not in (tmp_path / "report.json").read_text()
    assert report.read(tmp_path) == written
    assert "100 of the 100 clips were timed, each side alone<" in html_report.render(written, one)


def test_predictions_can_be_scored_again(one: Comparison) -> None:
    lines = [one.rows[index] for index in range(len(one.durations_s))]
    assert {"audio_filepath", "duration", "time", "text", "pred_text"} <= set(lines[0])
    rescored = score([line["text"] for line in lines], [line["pred_text"] for line in lines])
    assert rescored.errors.sum() == one.candidate.scores.errors.sum()


def test_the_schema_is_written_down(repository: Path) -> None:
    """docs/report.schema.json; write it anew when the report changes, and raise its version."""
    written = json.loads((repository / "docs" / "report.schema.json").read_text())
    assert written == Report.model_json_schema()
