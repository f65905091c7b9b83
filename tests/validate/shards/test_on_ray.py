"""A validation on a cluster: whatever dies and when, the report is that of one machine."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import report
from exporter.artifact.report import Report
from exporter.engine.part_store import PartStore
from exporter.errors import MachineError, RecipeError
from exporter.validate import pipeline
from tests.support import held_shards, ray_cluster
from tests.support.ray_cluster import (
    PHASES,
    Nodes,
    hold,
    kill,
    meanwhile,
    reached,
    release,
)
from tests.validate.shards.conftest import predictions, without_times

Judge = Callable[..., list[Report]]
ROOT = Path(__file__).resolve().parents[3]
ORIGINAL, ARTIFACT = (0, 1, 3, 5), (1000, 1002, 1004)  # the shards, by their first clips

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_small_shards")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head and three nodes, the first of which is kept for timing."""
    with ray_cluster.cluster() as started:
        yield started


@pytest.fixture
def one(judged: Judge, tmp_path: Path) -> tuple[Any, Any]:
    """The report and the predictions of this machine alone, of the artifact `one`."""
    (told,) = judged("one", until="all")
    found = without_times(told), predictions(tmp_path / "one")
    (tmp_path / "one" / "report.json").unlink()
    return found


@pytest.fixture
def on_ray(nodes: Nodes, tmp_path: Path, tiny_whisper: Path) -> Callable[..., Report]:
    """Judge the artifact `one` on the cluster."""

    def judging(**how: Any) -> Report:
        known: dict[str, Any] = {
            "reference": str(tiny_whisper),
            "data": str(tmp_path / "clips"),
            "until": "all",
            "store": str(tmp_path / "store"),
            "on": nodes.address,
        }
        (told,) = pipeline.validate([tmp_path / "one"], threads=1, **{**known, **how})
        return told

    return judging


def test_a_raylet_ray_workers_and_a_child_die(
    one: Any,
    on_ray: Callable[..., Report],
    nodes: Nodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each phase of a shard loses its Ray worker, one shard its child, and one its raylet."""
    made = held_shards.rounds._Tasks.__getitem__
    monkeypatch.setattr(held_shards.rounds._Tasks, "__getitem__", made)  # is put back
    held_shards.hold_all(tmp_path)
    lost = dict(zip(("prepare", "rename", "renamed"), ORIGINAL, strict=False))
    for phase, number in lost.items():
        hold(tmp_path, number, phase)
    child, raylet = ARTIFACT[:2]
    hold(tmp_path, child, "work")
    hold(tmp_path, raylet, "prepare")

    def strike() -> None:
        for phase, number in lost.items():
            pid = reached(tmp_path, number, phase)["pid"]
            release(tmp_path, number, phase)
            kill(pid)
        pid = reached(tmp_path, child, "work")["pid"]
        release(tmp_path, child, "work")
        kill(pid)
        at = reached(tmp_path, raylet, "prepare")["node"]
        release(tmp_path, raylet, "prepare")
        nodes.kill(at)

    with meanwhile(strike):
        told = on_ray()
    nodes.restore()
    assert (without_times(told), predictions(tmp_path / "one")) == one
    assert len(PartStore(tmp_path / "store").names()) == len(ORIGINAL) + len(ARTIFACT)
    again = {n: len((tmp_path / f"runs-{n}").read_text().split()) for n in (*ORIGINAL, *ARTIFACT)}
    # A part that was written is not heard again, though its worker died.
    assert again[lost["renamed"]] == 1
    assert again[lost["rename"]] == again[child] == 2


DRIVER = """
import sys
from pathlib import Path
from exporter.cli import main
from exporter.validate import validation
from tests.support import held_shards

validation.windows_of = lambda _parameters, *, original: 3 - original
held_shards.hold_all(Path(sys.argv.pop(1)))
sys.exit(main())
"""


def test_the_driver_dies_at_every_phase(
    one: Any, nodes: Nodes, tmp_path: Path, tiny_whisper: Path
) -> None:
    options = ["--data", str(tmp_path / "clips"), "--reference", str(tiny_whisper)]
    options += ["--until", "all", "--threads", "1", "--store", str(tmp_path / "store")]
    command = ["validate", str(tmp_path / "one"), *options, "--on", nodes.address]

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "told").open("w") as told:
            how = [sys.executable, "-c", DRIVER, str(tmp_path), *command]
            return subprocess.Popen(how, stdout=told, stderr=told, cwd=ROOT)

    phases = list(zip(PHASES, ORIGINAL, strict=True))
    for phase, number in phases:  # none may go on before its turn
        hold(tmp_path, number, "prepare", to_kill=phase == "prepare")
    for phase, number in phases:
        if phase != "prepare":
            hold(tmp_path, number, phase)
            release(tmp_path, number, "prepare")
        driver = start()
        reached(tmp_path, number, phase)
        known = PartStore(tmp_path / "store").names()
        driver.kill()
        driver.wait()
        release(tmp_path, number, phase)
        assert PartStore(tmp_path / "store").names() >= known
        assert not (tmp_path / "one" / "report.json").exists()
    driver = start()
    assert driver.wait(timeout=300) == 4, (tmp_path / "told").read_text()  # nothing is certain
    told = report.read(tmp_path / "one")
    assert (without_times(told), predictions(tmp_path / "one")) == one
    assert len(PartStore(tmp_path / "store").names()) == len(ORIGINAL) + len(ARTIFACT)


def test_times_are_taken_on_the_node_that_is_kept_for_it(
    one: Any, on_ray: Callable[..., Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative to this folder, wherever tasks run."""
    monkeypatch.chdir(tmp_path)
    told = on_ray(timing="exporter-use=timing", data="clips", store="store")
    assert len(PartStore(tmp_path / "store").names()) == len(ORIGINAL) + len(ARTIFACT)
    assert (without_times(told), predictions(tmp_path / "one")) == one
    assert told.timed_clips == 7
    assert told.figures.latency_median_s > 0
    with pytest.raises(MachineError, match="no node of Ray has the label use=timing"):
        on_ray(timing="use=timing", store=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()  # it is told before anything is heard


def test_a_cluster_needs_a_store_that_its_nodes_reach(
    one: Any, on_ray: Callable[..., Report]
) -> None:
    with pytest.raises(RecipeError, match="a cluster needs --store"):
        on_ray(store=None)
