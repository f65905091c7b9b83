"""What is built for a card: planned with its memory, tried where one is, and told where not."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import store
from exporter.build import pipeline
from exporter.cli import main
from exporter.system import accelerators
from exporter.system.progress import Progress
from exporter.targets import TARGETS
from tests.support import cuda_target
from tests.support.libcuda import H100, L4, make_driver

KIND = "float-cuda"
RECIPE = "name: tiny\ncheckpoint: {}\ntargets: [{{kind: {}}}]\n"


@pytest.fixture
def recipe(tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for the target, on a machine without a driver."""
    monkeypatch.setitem(TARGETS._paths, KIND, "tests.support.cuda_target")
    monkeypatch.setattr(accelerators, "LIBCUDA", "libno-such-driver.so.1")
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(tiny_whisper, KIND))
    return path


def with_card(folder: Path, card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "LIBCUDA", str(make_driver(folder, [card])))


def test_the_plan_tells_the_memory_of_the_card(
    recipe: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(recipe), "--dry-run", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["plan"]
    assert (row["device_memory_bytes"], row["fits"]) == (cuda_target.MEMORY_BYTES, True)
    assert row["options"] == {"device": "cuda"}
    assert main(["build", str(recipe), "--dry-run"]) == 0
    table = capfd.readouterr().out
    assert "on the GPU" in table
    assert "24 GB" in table
    assert "for GPUs they are guesses" in " ".join(table.split())


def test_a_smaller_card_here_refuses_the_build(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with_card(tmp_path / "driver", L4, monkeypatch)
    assert main(["build", str(recipe), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "no: " in told
    assert main(["build", str(recipe), "--output", str(tmp_path / "out")]) == 6
    told = capfd.readouterr().err
    assert "needs about 24 GB of a GPU's memory; NVIDIA L4 has 23.6 GB.\n" in told
    assert not (tmp_path / "out" / "tiny").exists()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the steps of a build in this process, which has the target; return their names."""
    steps: list[str] = []

    def run(step: str, request: dict[str, Any], progress: Progress, **_how: Any) -> dict[str, Any]:
        module, _, function = step.partition(":")
        steps.append(function)
        if function == "smoke_test":
            return {"text": "a", "seconds": 1.0, "peak_rss_bytes": 1}
        call: Callable[..., dict[str, Any]] = getattr(import_module(module), function)
        return {**call(request, progress), "seconds": 1.0, "peak_rss_bytes": 1}

    monkeypatch.setattr(pipeline.worker, "run", run)
    return steps


def test_without_a_card_it_is_built_and_said_to_be_untried(
    recipe: Path, tmp_path: Path, in_process: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out")]
    assert main(["build", str(recipe), *output]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "built in 1 s" in told
    assert (
        "not tried here: trying it needs an NVIDIA GPU of compute capability 8.0 or later" in told
    )
    assert in_process == ["build_target"]
    folder = tmp_path / "out" / "tiny" / KIND
    manifest = store.verify(folder)
    assert manifest.built_on == cuda_target.BUILT_ON
    assert main(["inspect", str(folder)]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert (
        "needs: torch, an NVIDIA GPU of compute capability 8.0 or later with 24 GB of memory, a "
        "driver for CUDA 13" in told
    )
    assert "built on: NVIDIA H100 80GB HBM3 (132 multiprocessors), by torch 2.13.0+cu130" in told
    assert main(["build", str(recipe), *output]) == 0
    assert "already built, kept" in " ".join(capfd.readouterr().out.split())


def test_where_a_card_is_it_is_tried(
    recipe: Path,
    tmp_path: Path,
    in_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with_card(tmp_path / "driver", H100, monkeypatch)
    assert main(["build", str(recipe), "--output", str(tmp_path / "out"), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["artifacts"]
    assert in_process == ["build_target", "smoke_test"]
    assert "untried" not in row
    assert row["measured"]["reload_seconds"] == 1.0
