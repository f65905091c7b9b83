"""Artifacts for CUDA: what their reports, pages and cards say, and which reports count."""

from pathlib import Path

import pytest

from exporter.artifact import report
from exporter.artifact.manifest import Gpu, Requirements
from exporter.artifact.report import DeviceStamp, Report
from exporter.cli import main
from exporter.cli.validate import on_card
from exporter.errors import IntegrityError
from exporter.hub import model_card
from exporter.hub.eligibility import check_publishable
from exporter.validate.page import render as html_report
from tests.support import passing
from tests.support.judging import SENTENCE, case
from tests.support.reports import made

GPU = Gpu(capability="8.0", match="minimum", cuda="13.0", memory_bytes=4_200_000_000)
NEEDS = Requirements(packages=("onnxruntime",), device="cuda", gpu=GPU)
CARD = DeviceStamp(
    kind="cuda",
    name="NVIDIA H100 80GB HBM3",
    capability="9.0",
    cuda="13.0",
    memory_bytes=85_028_044_800,
)
SHOWN = "NVIDIA H100 80GB HBM3 (compute capability 9.0, driver for CUDA 13.0)"


def judged_on_card(folder: Path) -> Report:
    """Write a passed report that was made on a card."""
    known = report.read(folder)
    figures = {"first_s": 2.75, "device_memory_bytes": 3_100_000_000}
    return passing.judged(
        folder,
        environment=known.environment.model_copy(update={"device": CARD}),
        figures=known.figures.model_copy(update=figures),
        reference_figures=known.reference_figures.model_copy(update=figures),
    )


def card_of(folder: Path) -> str:
    proof = check_publishable(folder)
    return model_card.render(proof, "org/speech")[model_card.CARD].decode()


def test_only_a_report_of_its_own_device_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    on_card, on_cpu = tmp_path / "a", tmp_path / "b"
    passing.make(on_card, needs=NEEDS)
    passing.make(on_cpu)
    judged_on_card(on_cpu)
    for folder, built_for, made_on in ((on_card, "cuda", "cpu"), (on_cpu, "cpu", "cuda")):
        with pytest.raises(IntegrityError, match=f"for '{built_for}', .* made on '{made_on}': run"):
            check_publishable(folder)
        assert main(["push", str(folder), "--dry-run"]) == 5
        assert "run `exporter validate" in " ".join(capfd.readouterr().err.split())
        assert main(["inspect", str(folder)]) == 0
        assert "report: about another build: validate again" in capfd.readouterr().out
    judged_on_card(on_card)
    assert check_publishable(on_card).report.device == "cuda"
    assert main(["inspect", str(on_card)]) == 0
    assert "report: passed: " in capfd.readouterr().out


def test_its_card_tells_what_it_needs_and_how_to_load_it(tmp_path: Path) -> None:
    folder = passing.make(tmp_path / "cuda", needs=NEEDS)
    judged_on_card(folder)
    text = card_of(folder)
    assert " for an NVIDIA GPU. " in text
    assert "\nIt differs in 3 of 200 transcripts, 1.5 %.\n" in text
    needed = "compute capability 8.0 or later with 4.2 GB of memory, a driver for CUDA 13"
    assert f"\nIt needs an NVIDIA GPU of {needed}. CUDA_VISIBLE_DEVICES selects" in text
    assert f"Measured on {SHOWN} and AMD EPYC" in text
    assert "| first text, after loading | 2.75 s | 2.75 s | |" in text
    assert "| memory of the card | 3.1 GB | 3.1 GB | |" in text
    assert "(`pip install 'asr-exporter[hub,onnxruntime-cuda]'`;" in text
    assert "pip install 'optimum-onnx[onnxruntime-gpu]' soundfile`" in text
    assert '.from_pretrained("org/speech", provider="CUDAExecutionProvider")' in text
    assert 'print(exporter.load("org/speech").transcribe("speech.flac"))' in text
    assert "CUDA" not in card_of(passing.make(tmp_path / "cpu"))


def test_its_page_and_the_terminal_tell_how_many_transcripts_differ() -> None:
    one = case(
        hear=lambda index: SENTENCE if index % 30 else SENTENCE.replace("light", "lights"),
        first_s=2.5,
        device_memory_bytes=3_100_000_000,
        device=CARD,
    )
    plain = made(one)
    environment = plain.environment.model_copy(update={"device": CARD})
    reference = {"first_s": 5.0, "device_memory_bytes": 6_200_000_000}
    told = plain.model_copy(
        update={
            "environment": environment,
            "reference_figures": plain.reference_figures.model_copy(update=reference),
        }
    )
    assert list(on_card(told)) == [
        "It differs in 4 of 100 transcripts, 4.0 %.",
        f"On {SHOWN}, 3.1 GB of its memory, loaded in 1.00 s, the first text 2.50 s later.",
    ]
    page = html_report.render(told, one)
    assert f"The artifact differs in 4 of 100 transcripts, 4.0 %. Judged on {SHOWN}." in page
    assert "First text, after loading" in page
    assert "Memory of the card" in page
    without = html_report.render(made(case()), case())
    assert "Judged on" not in without
    assert "Memory of the card" not in without


def test_a_report_of_a_cpu_says_nothing_of_cards() -> None:
    text = report.text(made(case()))
    for name in (b"first_s", b"device_memory_bytes", b'"device"'):
        assert name not in text
    assert not list(on_card(made(case())))
