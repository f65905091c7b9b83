"""What the commands print of their results, with the work itself replaced."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.artifact.evidence import in_words
from exporter.artifact.manifest import BuildFigures, Manifest, Origin, RecipeStamp, Requirements
from exporter.artifact.report import Check, Report
from exporter.build import pipeline
from exporter.build.estimate import Prediction, Resources
from exporter.build.pipeline import BuiltArtifact
from exporter.cli import main
from exporter.errors import DataError
from exporter.formats.clips import Clip
from exporter.recipe import Recipe
from exporter.recognition import load as loading
from exporter.recognition import transcribe as transcribing
from exporter.recognition.recordings import Recording
from exporter.runtime.transcript import Segment, Transcript
from exporter.system import worker
from exporter.system.progress import Progress
from tests.support.judging import SENTENCE, case
from tests.support.reports import AGREEMENT, FAITHFUL, made

ESTIMATED = Prediction({"weights": 3_000_000}, 400_000_000, 500_000_000, 0, 120.0, 4.0)
RELOAD = {"peak_rss_bytes": 480_000_000, "seconds": 3.5, "text": "so"}
RECIPE = "name: speech\ncheckpoint: org/model\ntargets: [{kind: aoti}, {kind: torch-int8}]\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def manifest(kind: str) -> Manifest:
    origin = Origin(source="a", revision=None, sha256="1" * 64, size_bytes=4000, parameters=1000)
    return Manifest(
        name="speech",
        kind=kind,
        family="whisper",
        options={},
        recipe=RecipeStamp(name="speech", sha256="0" * 64, source="recipe.yaml"),
        checkpoint=origin,
        needs=Requirements(),
        versions={},
        machine={},
        build=BuildFigures(seconds=12.3, peak_rss_bytes=456_000_000),
        build_key="2" * 64,
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, dict[str, Any]]]:
    """The calls of `build.build`, which builds nothing here."""
    heard: list[tuple[Recipe, dict[str, Any]]] = []

    def build_nothing(recipe: Recipe, **how: Any) -> list[BuiltArtifact]:
        how.pop("progress")("weights", 0.5)
        how.pop("expect")(90.0)
        heard.append((recipe, how))
        return [
            BuiltArtifact(
                Path("artifacts/speech") / spec.name, manifest(spec.kind), ESTIMATED, cost
            )
            for spec, cost in zip(recipe.targets, (RELOAD, None), strict=True)
        ]

    monkeypatch.setattr(pipeline, "build", build_nothing)
    return heard


def test_build_tells_what_it_built_and_what_it_kept(
    calls: list[tuple[Recipe, dict[str, Any]]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "recipe.yaml"]) == 0
    assert capfd.readouterr() == (
        "artifacts/speech/aoti: 0 B, built in 12 s, 456 MB of memory\n"
        "artifacts/speech/torch-int8: 0 B, already built, kept\n",
        "",
    )
    (_, how) = calls[0]
    assert how == {"output": Path("artifacts"), "checkpoint": None, "targets": (), "force": False}


def test_build_passes_its_options_on(
    calls: list[tuple[Recipe, dict[str, Any]]], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", "x", "--checkpoint", "y", "--target", "aoti", "--force", "--json"]
    assert main(["build", "recipe.yaml", *arguments, "--set", "decoding.num_beams=3"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [row["reused"] for row in document["artifacts"]] == [False, True]
    assert document["artifacts"][0]["manifest"]["kind"] == "aoti"
    assert document["artifacts"][0]["predicted"] == {
        "size_bytes": 3_000_000,
        "peak_rss_bytes": 400_000_000,
        "seconds": 120.0,
        "reload_rss_bytes": 500_000_000,
        "reload_seconds": 4.0,
    }
    assert document["artifacts"][0]["measured"] == {
        "size_bytes": 0,
        "peak_rss_bytes": 456_000_000,
        "seconds": 12.3,
        "reload_rss_bytes": 480_000_000,
        "reload_seconds": 3.5,
    }
    recipe, how = calls[0]
    assert recipe.decoding.num_beams == 3
    assert how == {"output": Path("x"), "checkpoint": "y", "targets": ("aoti",), "force": True}


def test_a_dry_run_builds_nothing(
    calls: list[tuple[Recipe, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    row = {"artifact": "artifacts/speech/aoti", "kind": "aoti", "options": {"threads": ["two"]}}
    rule = {"pattern": "*.fc1", "scheme": "float", "label": "float", "parameters": {}, "tied": []}
    figures = {"modules": 2, "bytes_before": 3000, "bytes_after": 4000}
    row |= {"quantization": [{**rule, **figures}]}
    plan = [{**row, "action": "build", **ESTIMATED.as_row(), "fits": True, "why_not": None}]
    room = Resources(8_000_000_000, 9_000_000_000, Path("artifacts"))
    monkeypatch.setattr(pipeline, "dry_run", lambda _recipe, **_how: (plan, room))
    assert main(["build", "recipe.yaml", "--dry-run"]) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[2].split() == [
        *("artifacts/speech/aoti", "3", "MB", "400", "MB", "500", "MB", "3", "MB"),
        *("2.1", "min", "yes"),
    ]
    assert told[3:5] == ["artifacts/speech/aoti: threads=[two]", "  weights 3 MB"]
    assert told[5] == "quantization of aoti; bytes of weights:"
    assert told[8].split() == ["*.fc1", "float", "2", "3", "kB", "4", "kB"]
    assert told[9] == "Here: 8 GB of memory available, 9 GB of disk free at artifacts."
    assert main(["build", "recipe.yaml", "--dry-run", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["plan"], document["here"]) == (plan, room.as_row())
    (obstacle,) = document["gate_obstacles"]
    assert obstacle.startswith("the recipe names no data")
    assert not calls


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("data: {clips: clips}", ["2 clips are fewer than gate.min_clips, 50", "with 6 words"]),
        ("data: {clips: clips, max_clips: 1}", ["1 clips are fewer", "with 3 words"]),
        ("data: {clips: absent}", ["no clips at absent"]),
        ("data: {dataset: org/data, max_clips: 9}", ["data.max_clips 9 is below gate.min_clips"]),
        ("data: {dataset: org/data}", []),
        ("data: {clips: clips}\ngate: {min_clips: 1, max_wer_increase: 1}", []),
        ("data: {clips: clips}\ngate: {min_clips: 1, max_wer_increase: 0}", ["has no room"]),
    ],
)
def test_a_dry_run_tells_of_gates_that_cannot_pass(
    data: str,
    told: list[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (here / "recipe.yaml").write_text(f"{RECIPE}{data}\n")
    (here / "clips").mkdir()
    for name in "ab":
        (here / f"clips/{name}.wav").touch()
    rows = [json.dumps({"audio": f"{name}.wav", "text": "red green blue"}) for name in "ab"]
    (here / "clips/manifest.jsonl").write_text("\n".join(rows))
    room = Resources(8_000_000_000, 9_000_000_000, Path("artifacts"))
    monkeypatch.setattr(pipeline, "dry_run", lambda _recipe, **_how: ([], room))
    assert main(["build", "recipe.yaml", "--dry-run", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["gate_obstacles"]
    assert len(found) == len(told), found
    for sentence, expected in zip(found, told, strict=True):
        assert expected in sentence


def test_a_summary_that_cannot_be_written_is_told_before_anything_is_measured(
    reports: list[Report], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "artifacts", "--summary", "absent/summary.md"]) == 2
    told = capfd.readouterr().err
    assert (
        told == "error: --summary absent/summary.md cannot be written: No such file or directory\n"
    )
    assert main(["validate", "artifacts", "--summary", "summary.md"]) == 4
    assert Path("summary.md").read_text().startswith("| artifact | verdict |")


@pytest.fixture
def reports(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """A good and a bad report, for two folders, that `validate` will give."""
    for name in ("aoti", "onnx-int8"):
        (here / "artifacts" / name).mkdir(parents=True)
        (here / "artifacts" / name / "manifest.json").touch()
    bad = case(hear=lambda index: SENTENCE if index % 3 else "nothing at all")
    given = [made(case(timed=range(0, 100, 5))), made(bad)]
    monkeypatch.setattr("exporter.validate.pipeline.validate", lambda _paths, **_how: given)
    return given


def test_validate_draws_a_table_and_fails_with_4(
    reports: list[Report], capfd: pytest.CaptureFixture[str]
) -> None:
    assert [report.verdict for report in reports] == ["passed", "failed"]
    assert main(["validate", "artifacts"]) == 4
    out, err = capfd.readouterr()
    assert "demo/aoti" in out
    assert "artifacts/onnx-int8/report.html" in out
    good, bad = reports
    (wer,) = (check for check in bad.checks if check.passed is False)
    assert f"aoti: {good.sentence} Timed on 20 of 100 clips.\n" in out
    count = len(bad.checks)
    told = f"{wer.sentence} {wer.advice}"
    assert f"onnx-int8: 1 of {count} checks failed.\n  wer, failed: {told}\n" in out
    for report in reports:
        assert f"{report.figures.wer:.2%}" in out
    assert out.count("Timed on 20 of 100 clips.") == out.count("Timed on") == 1
    assert err == "error: 1 of 2 artifacts did not pass the gate: onnx-int8 failed\n"


def test_validate_tells_what_to_do_and_how_the_tokens_agree(
    reports: list[Report], capfd: pytest.CaptureFixture[str]
) -> None:
    good, bad = reports
    agreed = {"agreement": AGREEMENT, "faithfulness": FAITHFUL}
    faithful = Check(name="faithful", passed=False, sentence="Step 3 is off.", advice="Try again.")
    clips = Check(name="clips", passed=None, sentence="4 clips.", advice="Give more.")
    checks = (clips, faithful, *(c for c in good.checks if c.name != "clips"))
    failed = {"verdict": "failed", "checks": checks}
    reports[:] = good.model_copy(update=agreed), bad.model_copy(update={**agreed, **failed})
    assert main(["validate", "artifacts", "--summary", "summary.md"]) == 4
    out = capfd.readouterr().out
    agreement = in_words(AGREEMENT, FAITHFUL)
    assert f"{good.sentence} Timed on 20 of 100 clips.\n  {agreement}\n  artifacts/aoti/" in out
    assert out.count(agreement) == 1
    assert (
        f"onnx-int8: 1 of {len(checks)} checks failed, 1 is undecided.\n"
        "  faithful, failed: Step 3 is off. Try again.\n"
        "  clips, undecided: 4 clips. Give more.\n"
        "  artifacts/onnx-int8/report.html\n"
    ) in out
    listed = Path("summary.md").read_text().splitlines()
    assert "- onnx-int8: faithful, failed: Step 3 is off. Try again." in listed
    assert "- onnx-int8: clips, undecided: 4 clips. Give more." in listed
    assert any(line.startswith("- aoti: wer: WER +0.00 points") for line in listed)


def test_validate_prints_json_and_fails_with_4(
    reports: list[Report], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "artifacts", "--json"]) == 4
    document = json.loads(capfd.readouterr().out)
    rows, error = document["reports"], document["error"]
    assert error["message"] == "1 of 2 artifacts did not pass the gate: onnx-int8 failed"
    assert error["exit_code"] == 4
    assert [row["path"] for row in rows] == ["artifacts/aoti", "artifacts/onnx-int8"]
    assert Report.model_validate_json(json.dumps(rows[1]["report"])) == reports[1]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options asked of a recogniser that hears the same in everything."""
    asked: list[dict[str, Any]] = []

    def transcribe_iter(paths: Iterator[Path], **options: Any) -> Iterator[Transcript]:
        asked.append(options)
        segments = (Segment(0.0, 1.25, " turn on"), Segment(1.25, 2.0, " the light"))
        return (Transcript(" turn on the light", (1, 2), segments) for _ in paths)

    def load(_path: str, device: str | None, threads: int | None, trust: bool) -> SimpleNamespace:
        assert (device, threads, trust) == (None, 2, False)
        return SimpleNamespace(transcribe_iter=transcribe_iter, segments=segments)

    def segments(path: Path, **options: Any) -> Iterator[Segment]:
        (transcript,) = transcribe_iter(iter([path]), **options)
        yield from transcript.segments
        return transcript

    def run(
        step: str,
        request: dict[str, Any],
        progress: Progress,
        what: str,
        on_result: Callable[[Any], None],
    ) -> None:
        assert (step, what) == ("exporter.recognition.transcribe:transcribe", "artifact")
        for row in transcribing.transcribe(request, progress):
            on_result(json.loads(json.dumps(row)))

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(worker, "run", run)
    monkeypatch.setattr(transcribing, "runs_here", lambda _folder: False)
    return asked


def test_transcribe_prints_text(
    heard: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    call = ["transcribe", "artifact", "--threads", "2"]
    assert main([*call, "a.wav"]) == 0
    assert capfd.readouterr().out == "turn on the light\n"
    assert main([*call, "a.wav", "b.wav", "--language", "de", "--task", "translate"]) == 0
    assert capfd.readouterr().out == "a.wav: turn on the light\nb.wav: turn on the light\n"
    assert main([*call, "a.wav", "--timestamps"]) == 0
    assert capfd.readouterr().out == "[0.00 - 1.25] turn on\n[1.25 - 2.00] the light\n"
    assert main([*call, "a.wav", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["transcripts"]
    assert row["audio"] == "a.wav"
    assert row["segments"][1] == {"start_s": 1.25, "end_s": 2.0, "text": " the light"}
    assert heard == [{}, {"language": "de", "task": "translate"}, {"timestamps": True}, {}]


HOSTILE = "a\x1b[2J\nb.wav: forged\rx\x9b1m\u202ey\u2028 [bold]:cat:[/] می\u200cخ \udcff"


def test_hostile_text_is_shown_and_never_obeyed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def transcribe_files(_request: Any, progress: Progress, on_transcript: Any, _: Any) -> None:
        one, other = (
            Recording(Clip(name, Path(name), ""), PurePath(name))
            for name in ("a.wav", "out[v1]\nb.wav")
        )
        progress(HOSTILE, 0.5)
        # pytest-xdist cannot send records of half a character.
        logging.getLogger("exporter.somewhere").warning("%s", HOSTILE.removesuffix(" \udcff"))
        on_transcript(one, Transcript(HOSTILE, (), ()))
        on_transcript(other, Transcript(" so", (), ()))
        raise DataError(HOSTILE)

    monkeypatch.setattr(transcribing, "transcribe_files", transcribe_files)
    assert main(["transcribe", "artifact", "a.wav", "b.wav"]) == 3
    out, err = capfd.readouterr()
    shown = "a\\x1b[2J\\nb.wav: forged\\rx\\x9b1m\\u202ey\\u2028 [bold]:cat:[/] می\u200cخ \\xff"
    assert out == f"a.wav: {shown}\nout[v1]\\nb.wav: so\n"
    first, second = shown.split("\\n")
    logged = second.removesuffix(" \\xff")
    assert err == f"warning: {first}\n  {logged}\nerror: {first}\n  {second}\n"


def test_json_is_exact_and_harmless(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def transcribe_files(_request: Any, _progress: Progress, on_transcript: Any, _: Any) -> None:
        on_transcript(Path("a.wav"), Transcript(HOSTILE, (), ()))

    monkeypatch.setattr(transcribing, "transcribe_files", transcribe_files)
    assert main(["transcribe", "artifact", "a.wav", "--json"]) == 0
    out, _ = capfd.readouterr()
    (row,) = json.loads(out)["transcripts"]
    assert row["text"] == HOSTILE
    assert "می\u200cخ" in out
    assert not {"\x1b", "\x9b", "\u202e", "\u2028", "\r"} & set(out)
