"""The report's schema, its file, the page and the predictions."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from exporter.artifact import report
from exporter.artifact.evidence import in_words, short
from exporter.artifact.report import Check, LookStamp, Report
from exporter.errors import IntegrityError, RecipeError
from exporter.validate.page import render as html_report
from exporter.validate.page.checks import QUESTIONS, strip
from exporter.validate.page.plots import latency_svg, steps_svg
from exporter.validate.scoring.compare import Comparison
from exporter.validate.scoring.wer import score
from tests.support.judging import SENTENCE, case
from tests.support.reports import AGREEMENT, DIGEST, EFFECT, FAITHFUL, made


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
    looks = LookStamp(planned=(300, 1000), made=1, level=0.975, seed=0)
    found = {
        "agreement": AGREEMENT,
        "faithfulness": FAITHFUL,
        "groups": (EFFECT,),
        "looks": looks,
    }
    whole = made(one).model_copy(update=found)
    assert set(schema["properties"]) == set(json.loads(whole.model_dump_json()))
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


def cells(html: str) -> dict[str, str]:
    """The strip's checks, with the state that each is in."""
    found = re.findall(r'<b>([^<]+)</b><span class="state">([^<]+)</span>', html)
    assert len(found) == len(dict(found))
    return dict(found)


def test_the_page_has_a_strip_of_checks_and_tells_first_what_did_not_pass(one: Comparison) -> None:
    because = "That points to <the cache>. Build it again."
    faithful = Check(name="faithful", passed=False, sentence="Step 3 is far off.", advice=because)
    later = Check(name="of a later version", passed=True, sentence="All is well.")
    few = Check(name="clips", passed=None, sentence="Only 4 clips.", advice="Give more.")
    rest = tuple(check for check in made(one).checks if check.name != "clips")
    judged = made(one).model_copy(update={"checks": (few, *rest, faithful, later)})
    html = html_report.render(judged, one)
    shown = cells(html)
    assert shown["wer"] == shown["faithful"] == "failed"
    assert shown["latency"] == shown["of a later version"] == "passed"
    assert shown["clips"] == "undecided"
    assert shown["graphs"] == "not there"
    box = html[html.index('<section class="verdict') : html.index('<div class="strip">')]
    count = len(judged.checks)
    assert f"2 of {count} checks failed, 1 is undecided." in box
    assert because.replace("<", "&lt;").replace(">", "&gt;") in box
    assert box.index("Step 3 is far off.") < box.index("Only 4 clips.")
    assert "All is well." not in box
    assert f"What the {count - 3} passed checks found" in html


def test_every_check_is_in_the_strip_and_in_the_documentation(repository: Path) -> None:
    known = {name for _, names in QUESTIONS for name in names}
    sources = [path.read_text() for path in (repository / "validate").rglob("*.py")]
    named = {n for text in sources for n in re.findall(r'Check\(\s*name="([a-z ]+)"', text)}
    assert {"faithful", "wer"} < named <= known
    rows = re.findall(
        r"^\| `([a-z ]+)` \|", (repository / "docs" / "validation.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(known)
    assert [len(group.cells) for group in strip(())] == [len(names) for _, names in QUESTIONS]


def test_the_page_shows_how_the_tokens_agree(one: Comparison) -> None:
    told = {"agreement": AGREEMENT, "faithfulness": FAITHFUL}
    html = html_report.render(made(one).model_copy(update=told), one)
    assert html.count("<svg") == 3
    for row in (
        "All steps, times rounding</th><td>1.04</td><td>1.50",
        "Worst step, times rounding</th><td>2.08</td><td>6.00",
        "of the logits' spread</th><td>2.7e-5</td><td>4.2e-4",
        "mean, nats</th><td>9.5e-5<",
        "greatest step</th><td>0.0018<",
        "of 166 steps of 12 clips</th><td>100.0 %",
    ):
        assert row in html
    assert html.count("<table") == html.count('<div class="scroll"><table')
    without = {"faithfulness": FAITHFUL.model_copy(update={"exact_distance": None})}
    html = html_report.render(made(one).model_copy(update=without), one)
    assert "Worst step" in html
    assert "Without rounding" not in html
    assert "KL from" not in html


@pytest.mark.parametrize("values", [(1.0,), (0.0, 2.0), (1e11, 1.0, 1e11), (2.0,) * 1500])
def test_the_plot_of_steps_holds_any_distance(values: tuple[float, ...]) -> None:
    found = FAITHFUL.model_copy(update={"by_step": values, "distance": max(values)})
    picture = steps_svg(found)
    ys = [float(y) for y in re.findall(r'class="step" cx="[0-9.]+" cy="([0-9.-]+)"', picture)]
    assert min(len(values), 150) < len(ys) <= 201 or len(ys) == len(values) + 1
    assert all(12 <= y <= 248 for y in ys)
    (limit, _) = re.findall(r'class="gate" x1="[0-9.]+" y1="([0-9.]+)"', picture)
    above = sum(y < float(limit) for y in ys[:-1])
    assert above == sum(value > 6 for value in values)


def test_the_page_shows_what_the_clips_exercise(one: Comparison) -> None:
    facts: dict[str, Any] = {
        "recordings": 24, "texts": 23, "wordless": 0, "misplaced": 2, "window_s": 30.0,
        "examples": (SimpleNamespace(id="a<b>.wav", reads_like="b.wav"),), "over_window": 0,
        "under_1_s": 3, "lacking": ("over 30 s",), "tokens": 156, "vocabulary": 1200,
        "languages": {"en": 20, "": 4}, "plausible_wer": 0.25,
        "notes": ("No clip lasts over 30 s: long recordings were not judged.",),
    }  # fmt: skip
    units = SimpleNamespace(name="speaker", count=17, sentence="17 speakers were resampled.")
    more = {"corpus": SimpleNamespace(**facts), "units": units, "latency_ratio_p95": 0.71}
    judged: Any = SimpleNamespace(**{**dict(made(one)), **more})
    html = html_report.render(judged, one)
    for row in (
        "Different texts</th><td>23",
        "Independent speakers, for the interval</th><td>17",
        "Longer than the window of 30 s</th><td>0",
        "Tokens of text used</th><td>156 of 1,200, 13.0 %",
        "Clips in en</th><td>20",
        "Clips without a language</th><td>4",
        "of a clip, 95th percentile</th><td></td><td></td><td>0.71",
    ):
        assert row in html
    assert "No clip lasts over 30 s: long recordings were not judged." in html
    assert "a&lt;b&gt;.wav reads like the text of b.wav." in html
    old = made(one).model_copy(update={"corpus": None})
    assert "What the clips exercise" not in html_report.render(old, one)


def test_a_length_that_is_slower_than_the_gate_is_marked(one: Comparison) -> None:
    (first, *others) = made(one).slices
    slow = first.model_copy(update={"latency_ratio": 1.31})
    judged = made(one).model_copy(update={"slices": (slow, *others)})
    html = html_report.render(judged, one)
    assert re.search(r'1\.31 <span class="slow">over 1\.00</span>', html)
    assert html.count('class="slow"') == 1


def test_agreement_in_words() -> None:
    assert in_words(AGREEMENT, FAITHFUL) == (
        "Next tokens as the plan's own: 1.04 times rounding; "
        "KL from the original 9.5e-5, top-1 100.0 %."
    )
    assert in_words(AGREEMENT, None) == "KL from the original 9.5e-5, top-1 100.0 %."
    assert in_words(None, None) == ""
    numbers = {0.0: "0", 1e-11: "1.0e-11", 0.0018: "0.0018", 6: "6", 345: "345", 2e11: "2.0e11"}
    assert {value: short(value) for value in numbers} == numbers


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
    assert html.count("<table") == html.count('<div class="scroll"><table')
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
