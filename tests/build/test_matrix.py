"""Several recipes in one command, here and on a cluster of Ray."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import store
from exporter.build import matrix, pipeline
from exporter.cli import main
from exporter.engine.executors import Outcome, Task
from exporter.engine.on_ray import RayExecutor
from exporter.errors import BuildError
from exporter.system.progress import Progress, silent
from tests.support import ray_cluster
from tests.support.hub import serving
from tests.support.hub.repos import of_folder
from tests.support.in_process import steps_in_process
from tests.support.surroundings import Surroundings

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123456789"

pytestmark = pytest.mark.slow


@pytest.fixture
def recipes(tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two recipes of one checkpoint; a target of the second has the name of the other's kind."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        text = f"name: {name}\ncheckpoint: {tiny_whisper}\ntargets:\n  - kind: torch-int8\n"
        Path(f"{name}.yaml").write_text(text)
    with Path("b.yaml").open("a") as file:
        file.write("  - {kind: torch-int8, name: other}\n")
    return ["a.yaml", "b.yaml"]


PATHS = ["a/torch-int8", "b/torch-int8", "b/other"]


def sealed(output: Path) -> dict[str, dict[str, str]]:
    """The hashes of the files that targets wrote, by artifact."""
    return {
        path: {file.path: file.sha256 for file in store.verify(output / path).files}
        for path in PATHS
    }


def told(capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    return document


def test_a_cluster_builds_what_this_machine_builds(
    recipes: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Targets of one recipe are built beside each other; the command again keeps them."""
    with steps_in_process():
        assert main(["build", *recipes, "--output", "here"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"here/{path}" for path in PATHS]
    with ray_cluster.cluster(2) as nodes:
        on = ["build", *recipes, "--output", "there", "--on", nodes.address, "--json"]
        assert main(on) == 0
        first = told(capfd)["artifacts"]
        assert main(on) == 0
        second = told(capfd)["artifacts"]
    assert [row["path"] for row in first] == [str(tmp_path / "there" / path) for path in PATHS]
    assert [row["reused"] for row in first] == [False] * 3
    assert [row["reused"] for row in second] == [True] * 3
    assert sealed(tmp_path / "there") == sealed(tmp_path / "here")


def test_a_node_downloads_what_is_private(tmp_path: Path, tiny_whisper: Path) -> None:
    """With its own token, on a Ray of this machine alone, which says nothing itself."""
    text = "name: a\ncheckpoint: org/whisper\ntargets: [{kind: torch-int8}]\n"
    (tmp_path / "a.yaml").write_text(text)
    with serving(TOKEN) as hub:
        hub.api.create("org/whisper", files=of_folder(tiny_whisper), private=True)
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        variables |= {"HF_TOKEN": TOKEN, "RAY_ADDRESS": "local", "NO_PROXY": "*"}
        done = Surroundings(variables).run(tmp_path, "build", "a.yaml", "--on", "ray", text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith("artifacts/a/torch-int8: ")
    assert len(done.stdout.splitlines()) == 1
    store.verify(tmp_path / "artifacts" / "a" / "torch-int8")


def test_a_build_waits_for_the_lock_of_a_run_that_ends(
    recipes: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of a node that died, whose processes the kernel has not ended yet."""
    monkeypatch.setattr(matrix, "_BUSY_S", 0.1)
    (tmp_path / "artifacts" / "a").mkdir(parents=True)
    request = {"recipe": "a.yaml", "overrides": [], "target": "torch-int8"}
    request |= {"output": str(tmp_path / "artifacts"), "checkpoint": None, "force": False}
    with steps_in_process(), ExitStack() as held:
        held.enter_context(store.stage(tmp_path / "artifacts" / "a" / "torch-int8"))
        waited: list[float] = []

        def pause(seconds: float) -> None:
            waited.append(seconds)
            held.close()

        monkeypatch.setattr(matrix.time, "sleep", pause)
        answer = matrix.build_target(request, silent)
    assert waited == [0.1]
    assert answer["digest"] == store.verify(tmp_path / "artifacts" / "a" / "torch-int8").digest


def test_mistakes_are_told_before_anything_is_built(
    recipes: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    Path("c.yaml").write_text("name: c\ncheckpoint: absent\ntargets: [{kind: torch-int8}]\n")
    for on in ([], ["--on", "ray"]):
        assert main(["build", *recipes, "c.yaml", *on]) == 3
        assert capfd.readouterr().err.startswith("error: c.yaml:2:13: checkpoint: ")
        assert not Path("artifacts").exists()
    assert main(["build", *recipes, "./a.yaml"]) == 2
    assert "a.yaml and a.yaml have the same name, a" in capfd.readouterr().err
    assert main(["build", *recipes, "--on", "ray://host:1"]) == 2
    assert not Path("artifacts").exists()


def test_a_failed_build_does_not_stop_the_others(
    recipes: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pipeline.build

    def one_fails(recipe: Any, **how: Any) -> Any:
        if recipe.name == "a":
            msg = "it decodes no text"
            raise BuildError(msg)
        return build(recipe, **how)

    monkeypatch.setattr(pipeline, "build", one_fails)
    with steps_in_process():
        assert main(["build", *recipes, "--json"]) == 3
    shown = capfd.readouterr()
    assert shown.err.splitlines()[0] == "a.yaml: it decodes no text"
    document = json.loads(shown.out)
    assert [Path(row["path"]).name for row in document["artifacts"]] == ["torch-int8", "other"]
    assert document["error"]["message"] == "1 of 2 recipes were not built: a.yaml"


def test_a_plan_of_several_recipes_is_one_plan(
    recipes: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *recipes, "--dry-run", "--json"]) == 0
    document = told(capfd)
    assert [row["artifact"] for row in document["plan"]] == [f"artifacts/{path}" for path in PATHS]
    assert [why.split(":")[0] for why in document["gate_obstacles"]] == recipes
    assert main(["build", *recipes, "--dry-run"]) == 0
    assert "b/other" in capfd.readouterr().out


def test_an_output_that_nodes_do_not_share_is_told(
    recipes: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a node had built into a disk of its own."""

    def elsewhere(
        _self: RayExecutor, tasks: Sequence[Task], _progress: Progress
    ) -> Iterator[tuple[int, Outcome]]:
        for place, _ in enumerate(tasks):
            yield place, {"digest": "1", "reload": None, "untried": ""}

    monkeypatch.setattr(RayExecutor, "__enter__", lambda self: self)
    monkeypatch.setattr(RayExecutor, "map", elsewhere)
    assert main(["build", "a.yaml", "--on", "ray"]) == 3
    shown = capfd.readouterr().err
    assert "artifacts/a/torch-int8 was built on a node, and is not here." in shown
    assert "a folder that all nodes share" in shown
