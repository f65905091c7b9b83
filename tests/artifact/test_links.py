"""Links, pipes and devices at the names that commands create, as a cloned repository may hold them.

A link at a folder that the user names is the user's wish; one at a name below it is refused, and
nothing is written, emptied or removed behind it.
"""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import local_paths, provenance, report, store
from exporter.cli import main
from exporter.errors import IntegrityError, TrustError
from exporter.hub import model_card, pull, push
from exporter.system import user_dirs
from exporter.system.progress import silent
from tests.support import passing
from tests.support.hub import Hub

Plant = Callable[[Path, Path], object]
SIDECARS = (
    *(report.REPORT, report.PAGE, report.PREDICTIONS, model_card.CARD, model_card.PICTURE),
    *(provenance.PROVENANCE, *store.SIGNATURES, local_paths.PLACES, store.MANIFEST),
)


def link(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "precious")


def dangling(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "nothing")


def folder_link(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def relative_link(place: Path, outside: Path) -> None:
    place.symlink_to(os.path.relpath(outside / "precious", place.parent))


def loop(place: Path, _outside: Path) -> None:
    place.symlink_to(place.name)


def pipe(place: Path, _outside: Path) -> None:
    os.mkfifo(place)


def device(place: Path, _outside: Path) -> None:
    if os.geteuid():
        pytest.skip("only root makes devices")
    os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: it has no end


def folder(place: Path, _outside: Path) -> None:
    place.mkdir()


PLANTED = (link, dangling, folder_link, relative_link, loop, pipe, device)
LINKS = (link, dangling, folder_link, relative_link, loop)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What lies elsewhere, and must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("kept")
    return tmp_path / "outside"


def untouched(outside: Path) -> bool:
    names = [path.name for path in outside.iterdir()]
    return names == ["precious"] and (outside / "precious").read_text() == "kept"


@pytest.fixture
def build(
    tmp_path: Path, tiny_whisper: Path, capfd: pytest.CaptureFixture[str], steps_here: None
) -> Callable[..., tuple[int, str]]:
    """Build a recipe `t` for torch-int8 into `artifacts`."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: t\ncheckpoint: {tiny_whisper}\ntargets:\n  - kind: torch-int8\n")

    def building(*options: str, output: str = "artifacts") -> tuple[int, str]:
        capfd.readouterr()
        code = main(["build", str(path), "--output", str(tmp_path / output), *options])
        return code, capfd.readouterr().err

    return building


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("name", ["t", "t/torch-int8", "t/.torch-int8.lock"])
def test_a_build_writes_through_nothing(
    build: Callable[..., tuple[int, str]], tmp_path: Path, outside: Path, name: str, plant: Plant
) -> None:
    place = tmp_path / "artifacts" / name
    place.parent.mkdir(parents=True)
    plant(place, outside)
    for options in ([], ["--force"]):
        code, told = build(*options)
        assert code in (2, 3, 5), told
        assert len(told.strip().splitlines()) <= 3
        assert place.name in told
        assert untouched(outside)
        assert os.path.lexists(place)


def test_an_output_folder_may_be_a_link(
    build: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "big")
    assert build()[0] == 0
    assert store.verify(tmp_path / "big" / "t" / "torch-int8")
    # Whatever has the name of a killed build's folder goes, not what it leads to.
    stale = tmp_path / "big" / "t" / f".torch-int8.partial-{'0' * 32}"
    for plant in (*LINKS, pipe, folder):
        plant(stale, tmp_path)
        with store.stage(tmp_path / "big" / "t" / "torch-int8"):
            assert not os.path.lexists(stale)
    other = tmp_path / "big" / "t" / ".torch-int8.partial-mine"
    other.mkdir()
    with store.stage(tmp_path / "big" / "t" / "torch-int8"):
        assert other.is_dir()


COMMANDS = (
    ["verify"],
    ["inspect"],
    ["list"],
    ["doctor"],
    ["push", "--dry-run"],
    ["verify", "--signature"],
    ["push"],
    ["sign", "--key", "KEY"],
)


@pytest.mark.parametrize("plant", [link, dangling, pipe, device, folder])
@pytest.mark.parametrize("name", SIDECARS)
def test_what_is_written_beside_an_artifact_goes_through_nothing(
    loopback: Hub,
    pair: tuple[Path, Path],
    tmp_path: Path,
    outside: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    plant: Plant,
) -> None:
    artifact = passing.make(tmp_path / "onnx-int8")
    place = artifact / name
    for command in COMMANDS:
        if not os.path.lexists(place) or stat.S_ISREG(place.lstat().st_mode):
            place.unlink(missing_ok=True)
            plant(place, outside)
        words = [str(pair[0]) if word == "KEY" else word for word in command]
        code, told = main([words[0], str(artifact), *words[1:]]), capfd.readouterr().err
        assert code in (0, 2, 3, 4, 5, 6), (command, told)
        assert untouched(outside), command


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("name", ["org", "org/speech", "org/.speech.lock"])
def test_a_pull_writes_through_nothing(
    loopback: Hub,
    tmp_path: Path,
    outside: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    plant: Plant,
) -> None:
    origin = passing.make(tmp_path / "origin" / "onnx-int8")
    list(push.push(push.plan_push(origin, None, None), push.Way(), silent))
    (tmp_path / "real").mkdir()
    (tmp_path / "named").symlink_to(tmp_path / "real")
    place = tmp_path / "named" / name
    place.parent.mkdir(exist_ok=True)
    plant(place, outside)
    for force in ([], ["--force"]):
        code = main(["pull", "org/speech", "--output", str(tmp_path / "named"), *force])
        assert code in (2, 3, 5), capfd.readouterr().err
        assert untouched(outside)
    place.unlink()
    assert main(["pull", "org/speech", "--output", str(tmp_path / "named")]) == 0


@pytest.mark.parametrize("plant", [*PLANTED, folder])
@pytest.mark.parametrize("name", [".github", ".github/workflows", ".github/workflows/export.yml"])
def test_a_workflow_is_written_through_nothing(
    tmp_path: Path, outside: Path, capfd: pytest.CaptureFixture[str], name: str, plant: Plant
) -> None:
    root = tmp_path / "repository"
    (root / ".git").mkdir(parents=True)
    (root / "recipe.yaml").write_text(
        "name: t\ncheckpoint: org/whisper\ntargets:\n  - kind: torch-int8\n"
        "hub: {repo: org/speech}\ndata: {dataset: org/clips}\ngate: {max_wer_increase: 0.01}\n"
    )
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    plant(place, outside)
    command = ["init", str(root / "recipe.yaml"), "--github", "--package", "asr-exporter==1"]
    for force in ([], ["--force"]):
        code, told = main([*command, *force]), capfd.readouterr().err
        assert code in (2, 3, 5) or plant is folder, told
        assert code != 1, told
        assert untouched(outside)


def test_the_cache_of_pulled_artifacts_is_the_users_own(
    loopback: Hub, tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "kept"))
    origin = passing.make(tmp_path / "origin" / "onnx-int8")
    list(push.push(push.plan_push(origin, None, None), push.Way(), silent))
    place = pull.fetch_to_cache("org/speech")
    assert place.stat().st_mode & 0o077 == 0

    def refused(**_: Any) -> None:
        with pytest.raises(TrustError, match="others can change what is cached there"):
            pull.fetch_to_cache("org/speech")

    for open_folder in (place, place.parent, place.parents[1], user_dirs.place(), tmp_path):
        mode = open_folder.stat().st_mode
        open_folder.chmod(0o777)
        refused()
        open_folder.chmod(mode & 0o7777)
        if not os.geteuid():
            os.chown(open_folder, 12345, -1)
            refused()
            os.chown(open_folder, 0, -1)
    assert pull.fetch_to_cache("org/speech") == place
    shutil.rmtree(place)
    place.symlink_to(outside)
    with pytest.raises(IntegrityError, match="is a link"):
        pull.fetch_to_cache("org/speech")
    assert untouched(outside)
