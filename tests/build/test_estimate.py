"""What a build takes is told before it starts, holds when it is built, and is refused in time."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.build_cost import calibrate
from exporter import recipe
from exporter.artifact import local_paths, provenance
from exporter.artifact.manifest import MANIFEST, BuildFigures
from exporter.build import estimate
from exporter.build import pipeline as builder
from exporter.build.estimate import Prediction, Resources, Step
from exporter.build.pipeline import BuiltArtifact
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.cli import main
from exporter.cli.output import formatting
from exporter.errors import MachineError, ResourceError
from exporter.formats.tensor_io import safetensors_bytes, write_safetensors
from exporter.system import hardware, worker
from exporter.system.progress import silent
from exporter.targets import TARGETS, cost
from exporter.targets.aoti import target as aoti
from tests.support import exact

RECIPE = """\
name: tiny
checkpoint: {checkpoint}
targets:
  - kind: onnx-int8
  - kind: torch-int8
decoding: {{language: en, task: transcribe}}
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_whisper: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Call the command line in a folder with a recipe; give exit code, results and messages."""
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(checkpoint=tiny_whisper))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that starts a process fails the test."""

    def start(*_: object, **__: object) -> dict[str, Any]:
        pytest.fail("a child was started")

    monkeypatch.setattr(worker, "run", start)


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, tiny_whisper: Path
) -> tuple[Path, list[estimate.Row], list[BuiltArtifact]]:
    """A recipe, its plan, and then its artifacts, really built."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "tiny.yaml").write_text(RECIPE.format(checkpoint=tiny_whisper))
    wanted, output = recipe.read(folder / "tiny.yaml"), folder / "artifacts"
    rows, _ = builder.dry_run(wanted, output=output, progress=silent)
    return folder, rows, builder.build(wanted, output=output, progress=silent)


def near(told: float, found: float, share: float) -> bool:
    return abs(told - found) <= share * found


def test_a_dry_run_writes_nothing_and_tells_all(run: Run, tmp_path: Path, no_child: None) -> None:
    code, out, err = run("build", "tiny.yaml", "--dry-run", "--json", *exact.ARGUMENTS)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["here"]["memory_available_bytes"] > 0
    assert document["here"]["disk_free_bytes"] > 0
    assert [row["kind"] for row in document["plan"]] == ["onnx-int8", "torch-int8"]
    for row in document["plan"]:
        assert row["action"] == "build"
        assert row["fits"] is True
        assert row["why_not"] is None
        assert row["size_bytes"] == sum(file["size_bytes"] for file in row["files"])
        assert row["disk_bytes"] >= row["size_bytes"]
        assert min(row["peak_rss_bytes"], row["reload_rss_bytes"]) > 50e6
        assert min(row["seconds"], row["reload_seconds"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_dry_run_is_a_table_on_a_terminal(run: Run, no_child: None) -> None:
    code, out, _ = run("build", "tiny.yaml", "--dry-run", "--target", "torch-int8")
    assert code == 0
    head, _, row, contents, files, *rest = out.splitlines()
    for column in ("artifact", "size", "memory to build", "to load", "disk", "time", "here"):
        assert column in head
    assert row.split()[0] == "artifacts/tiny/torch-int8"
    assert row.endswith(" yes")
    assert contents == "artifacts/tiny/torch-int8"
    assert "model.safetensors " in files
    assert "small files" in files
    assert cost.MEASURED_ON in rest[-2]
    assert rest[-1].startswith("The gate cannot pass: the recipe names no data")


def test_too_little_memory_is_told_before_anything_starts(
    run: Run, tmp_path: Path, no_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda: 100_000_000)
    code, out, err = run("build", "tiny.yaml", *exact.ARGUMENTS)
    assert (code, out) == (8, "")
    assert len(err.strip().splitlines()) == 2
    assert "artifacts/tiny/onnx-int8 needs about" in err
    assert "100 MB is available" in err
    assert "--target" in err
    assert not (tmp_path / "artifacts").exists()
    code, out, _ = run("build", "tiny.yaml", "--dry-run", "--json")
    (first, _) = json.loads(out)["plan"]
    assert (code, first["fits"]) == (0, False)
    assert first["why_not"] == err.splitlines()[0].removeprefix("error: ")
    assert "no: artifacts/tiny/onnx-int8 needs" in run("build", "tiny.yaml", "--dry-run")[1]


def test_too_little_disk_is_told_before_anything_starts(
    run: Run, no_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough for one of the two artifacts, so that the second is the one that does not fit."""
    rows = json.loads(run("build", "tiny.yaml", "--dry-run", "--json")[1])["plan"]
    enough = sum(row["disk_bytes"] for row in rows)
    monkeypatch.setattr(hardware, "disk_free_bytes", lambda _place: enough - 1)
    code, _, err = run("build", "tiny.yaml")
    assert code == 8
    assert "artifacts/tiny/torch-int8 needs" in err
    assert "choose another --output" in err
    rows = json.loads(run("build", "tiny.yaml", "--dry-run", "--json")[1])["plan"]
    assert [row["fits"] for row in rows] == [True, False]


def test_a_missing_compiler_stops_a_build_and_shows_in_the_plan(
    run: Run, no_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        msg = "aoti needs a C++ compiler\nInstall one."
        raise MachineError(msg)

    monkeypatch.setattr(aoti, "require_compiler", refuse)
    recipe_with_aoti = ("build", "tiny.yaml", "--set", "targets.0.kind=aoti")
    code, out, _ = run(*recipe_with_aoti, "--dry-run", "--json")
    rows = json.loads(out)["plan"]
    assert (code, rows[0]["why_not"]) == (0, "aoti needs a C++ compiler")
    assert rows[1]["fits"]
    code, _, err = run(*recipe_with_aoti)
    assert (code, err) == (6, "error: aoti needs a C++ compiler\n  Install one.\n")


def test_a_checkpoint_is_inspected_with_a_plan_for_every_kind(
    run: Run, tiny_whisper: Path, no_child: None
) -> None:
    code, out, _ = run("inspect", tiny_whisper, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["family"] == "whisper"
    assert [row["kind"] for row in facts["plan"]] == list(TARGETS)
    assert all(row["fits"] and row["size_bytes"] for row in facts["plan"])
    code, out, _ = run("inspect", tiny_whisper)
    assert code == 0
    assert ", in F32\n" in out
    assert "\ntorch-int8 " in out
    assert "memory available" in out


def test_a_kind_without_defaults_on_this_machine_has_a_reason_and_no_figures(
    run: Run, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_fits() -> Any:
        msg = "aoti compiles for x86 only"
        raise MachineError(msg)

    monkeypatch.setattr(aoti, "Options", none_fits)
    row = json.loads(run("inspect", tiny_whisper, "--json")[1])["plan"][-1]
    assert row == {"kind": "aoti", "fits": False, "why_not": "aoti compiles for x86 only"}
    assert "no: aoti compiles for x86 only" in run("inspect", tiny_whisper)[1]


def predicted(size: int, **changes: int) -> Prediction:
    figures = {"peak_rss_bytes": 1, "reload_rss_bytes": 1, "scratch_bytes": 0} | changes
    return Prediction({"weights": size}, **figures, seconds=1.0, reload_seconds=1.0)


def test_disk_counts_what_was_built_before_and_frees_what_is_replaced() -> None:
    steps = [
        Step("first", predicted(100), replaces_bytes=90),
        Step("second", predicted(50, scratch_bytes=30)),
    ]
    for disk, expected in ((100, [True, True]), (89, [False, False]), (99, [False, True])):
        reasons = list(estimate.resource_errors(steps, Resources(10, disk, Path())))
        assert [reason is None for reason in reasons] == expected, disk


@pytest.mark.parametrize(
    ("build", "reload", "told"), [(20, 10, "to be built"), (10, 20, "to be loaded once")]
)
def test_the_greater_of_building_and_reloading_decides(build: int, reload: int, told: str) -> None:
    step = Step("it", predicted(1, peak_rss_bytes=build, reload_rss_bytes=reload))
    estimate.require_room([step], Resources(20, 10, Path()))
    with pytest.raises(ResourceError, match=f"it needs about 20 B of memory {told}.*19 B is"):
        estimate.require_room([step], Resources(19, 10, Path()))


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (99.4, "99 s"), (100, "1.7 min"), (3600, "60.0 min")]
)
def test_durations(seconds: float, told: str) -> None:
    assert formatting.duration(seconds) == told


def test_a_safetensors_file_is_as_long_as_was_told(tmp_path: Path) -> None:
    layout = {"a": (torch.int8, (3, 5)), "b.weight": (torch.float16, (7,)), "c": (torch.int8, (0,))}
    write_safetensors(
        tmp_path / "x",
        layout,
        lambda name: torch.zeros(layout[name][1], dtype=layout[name][0]),
        silent,
    )
    assert (tmp_path / "x").stat().st_size == safetensors_bytes(layout)


def test_a_manifest_without_a_prediction_keeps_its_bytes() -> None:
    """Artifacts that were sealed before there were predictions stay what they are."""
    figures = BuildFigures(seconds=1.0, peak_rss_bytes=2)
    assert figures.model_dump(mode="json") == {"seconds": 1.0, "peak_rss_bytes": 2}
    full = BuildFigures(seconds=1.0, peak_rss_bytes=2, predicted=predicted(3).for_manifest())
    assert BuildFigures.model_validate(full.model_dump(mode="json")) == full


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1], ids=["onnx-int8", "torch-int8"])
def test_what_was_foretold_is_what_was_built(
    built: tuple[Path, list[estimate.Row], list[BuiltArtifact]], index: int
) -> None:
    _, rows, artifacts = built
    row, one = rows[index], artifacts[index]
    told = {file["path"]: file["size_bytes"] for file in row["files"]}
    found = {file.path: file.size_bytes for file in one.manifest.files}
    assert told.keys() == found.keys()
    on_disk = {path.name for path in one.path.iterdir()}
    assert on_disk == {*told, MANIFEST, local_paths.PLACES, provenance.PROVENANCE}
    for name in told:
        assert near(told[name], found[name], 0.3), name
    assert near(row["size_bytes"], one.manifest.size_bytes, 0.02)
    figures = one.manifest.build
    assert near(row["peak_rss_bytes"], figures.peak_rss_bytes, 0.3)
    assert figures.predicted is not None
    assert figures.predicted.size_bytes == row["size_bytes"]
    assert one.reload is not None
    assert near(row["reload_rss_bytes"], one.reload["peak_rss_bytes"], 0.3)


@pytest.mark.slow
def test_the_benchmark_puts_both_figures_side_by_side(
    built: tuple[Path, list[estimate.Row], list[BuiltArtifact]],
) -> None:
    size, *others = calibrate.compared(built[2][1])
    assert re.fullmatch(r"size_bytes (\d\.\d) / \1 = 1\.00", size)
    assert len(others) == 4


@pytest.mark.slow
def test_what_stands_already_is_told_as_kept(
    built: tuple[Path, list[estimate.Row], list[BuiltArtifact]], run: Run, no_child: None
) -> None:
    folder, _, artifacts = built
    where = ("build", folder / "tiny.yaml", "--output", folder / "artifacts")
    (kept, _) = json.loads(run(*where, "--dry-run", "--json")[1])["plan"]
    assert (kept["action"], kept["fits"]) == ("keep", True)
    assert "already built, kept" in run(*where, "--dry-run")[1]
    (row, _) = json.loads(run(*where, "--json")[1])["artifacts"]
    assert row["reused"]
    assert row["measured"]["size_bytes"] == artifacts[0].manifest.size_bytes
    assert row["predicted"].keys() == row["measured"].keys()
    (forced, _) = json.loads(run(*where, "--dry-run", "--force", "--json")[1])["plan"]
    assert forced["action"] == "replace"
    assert "replaces what is there" in run(*where, "--dry-run", "--force")[1]


@pytest.mark.slow
def test_a_damaged_artifact_is_replaced_as_foretold(
    built: tuple[Path, list[estimate.Row], list[BuiltArtifact]], run: Run, tmp_path: Path
) -> None:
    """Its manifest cannot be read, but the room that it takes is known."""
    folder, _, _ = built
    shutil.copytree(folder / "artifacts", tmp_path / "copied")
    (tmp_path / "copied/tiny/torch-int8/manifest.json").write_text("{}")
    where = ("build", folder / "tiny.yaml", "--output", tmp_path / "copied", "--dry-run")
    assert run(*where)[0] == 5
    code, out, _ = run(*where, "--force", "--json")
    assert (code, json.loads(out)["plan"][1]["action"]) == (0, "replace")


@pytest.mark.slow
def test_the_demo_is_built_as_foretold(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(RECIPE.format(checkpoint=repository / "recipes/demo/whisper"))
    (one,) = builder.build(
        recipe.read(path), output=tmp_path, targets=["torch-int8"], progress=silent
    )
    foretold, figures = one.prediction, one.manifest.build
    assert foretold.size_bytes == one.manifest.size_bytes
    assert near(foretold.peak_rss_bytes, figures.peak_rss_bytes, 0.3)
    assert json.loads((one.path / "manifest.json").read_text())["build"]["predicted"] == {
        "size_bytes": foretold.size_bytes,
        "peak_rss_bytes": foretold.peak_rss_bytes,
        "reload_rss_bytes": foretold.reload_rss_bytes,
        "seconds": round(foretold.seconds, 1),
    }


def test_the_work_is_read_from_the_headers_alone(tiny_whisper: Path) -> None:
    opened = open_checkpoint(str(tiny_whisper))
    work = estimate.work_of(opened, 7)
    assert work.read_bytes == 4 * opened.parameters
    assert 0 < work.largest_bytes < work.read_bytes
    assert 20 < work.modules < len(opened.tensors)
    assert work.written_bytes == 7
