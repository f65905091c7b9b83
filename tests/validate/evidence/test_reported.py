"""What the checks of small files do to a validation: its verdict, its errors, its sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import cli
from exporter.artifact import report
from exporter.artifact.report import Report
from tests.support.built import Change, build_tiny, damaged, edit
from tests.support.in_process import steps_in_process
from tests.support.recipes import write_recipe
from tests.support.tiny import make_whisper

TERMS = """\
decoding: {language: en}
data: {clips: clips}
gate: {min_clips: 1, max_wer_increase: 1, max_latency_ratio: 1000, max_reference_wer: 100}
"""
Told = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    checkpoint = make_whisper(folder / "checkpoint")
    write_recipe(folder, checkpoint, "{}")
    return build_tiny(folder, checkpoint, "[{kind: torch-int8}]", TERMS)["torch-int8"]


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Validate in this process; return the exit code and what was told."""

    def run(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        with steps_in_process():
            code = cli.main(["validate", "--threads=1", *arguments])
        return code, capfd.readouterr().err.strip()

    return run


def checks(judged: Report) -> dict[str, bool | None]:
    return {check.name: check.passed for check in judged.checks}


def test_a_good_artifact_passes_with_both_checks(artifact: Path, told: Told) -> None:
    assert told(str(artifact)) == (0, "")
    found = checks(report.read(artifact))
    assert found["companions"]
    assert found["plan"]


def test_a_value_that_differs_fails_the_gate(artifact: Path, told: Told, tmp_path: Path) -> None:
    change = edit("generation_config.json", prev_sot_token_id=None)
    folder = damaged(artifact, tmp_path / "artifact", change)
    assert told(str(folder))[0] == 4
    judged = report.read(folder)
    assert judged.verdict == "failed"
    assert judged.sentence.startswith("generation_config.json: prev_sot_token_id is absent, ")
    assert checks(judged)["companions"] is False


CRASHES: dict[str, Change] = {
    "config.json: decoder_layers is 3, 2 originally": edit("config.json", decoder_layers=3),
    "preprocessor_config.json: hop_length is 200, 160 originally": edit(
        "preprocessor_config.json", hop_length=200
    ),
    "quantization.json: modules is absent": edit("quantization.json", modules=None),
}


@pytest.mark.parametrize("cause", CRASHES)
def test_an_artifact_that_does_not_run_tells_the_cause_first(
    cause: str, artifact: Path, told: Told, tmp_path: Path
) -> None:
    folder = damaged(artifact, tmp_path / "artifact", CRASHES[cause])
    code, error = told(str(folder))
    assert code == 5
    assert error.startswith(f"error: {folder}: {cause}")
    assert len(error.splitlines()) == 3
    assert "This is a bug" not in error
    assert not (folder / report.REPORT).exists()


def test_another_original_is_told(artifact: Path, told: Told, tmp_path: Path) -> None:
    other = make_whisper(tmp_path / "other", seed=7)
    code, error = told(str(artifact), "--reference", str(other), "--report", str(tmp_path / "r"))
    judged = report.read(tmp_path / "r")
    assert code == 4, error
    assert judged.sentence.startswith("Against another original: other (sha256 ")
    assert "it was built from checkpoint (sha256 " in judged.sentence
    assert judged.reference.built_from is False
    assert "companions" not in checks(judged)
    assert "Against another original" in (tmp_path / "r" / report.PAGE).read_text()
