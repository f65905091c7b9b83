"""A step in a process of its own: it ends with its parent, and so does what it leaves."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import DataError, MachineError, ResourceError, exhausted, exhaustion
from exporter.system import hardware, worker
from exporter.system.environment import PASSED_ON
from exporter.system.progress import Progress, silent
from tests.support.faults import wait_until


def litter(asked: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that leaves temporary files, as compilers do that are killed."""
    place = os.environ["TMPDIR"]
    Path(place, "cc.s").write_text("")
    if asked["code"]:
        os._exit(asked["code"])
    return {"place": place}


def results(asked: dict[str, Any], _progress: Progress) -> Iterator[dict[str, Any]]:
    """A step that goes on only after its first result has reached somebody; the third fails."""
    yield {"row": 1}
    assert wait_until(Path(asked["arrived"]).exists)
    yield {"row": [2]}
    msg = "the third is bad"
    raise DataError(msg)


def test_results_come_while_the_step_runs(tmp_path: Path) -> None:
    came: list[Any] = []

    def on_result(row: Any) -> None:
        came.append(row)
        (tmp_path / "arrived").touch()

    request = {"arrived": str(tmp_path / "arrived")}
    with pytest.raises(DataError, match=r"^the third is bad$"):
        worker.run(f"{__name__}:results", request, silent, what="it", on_result=on_result)
    assert came == [{"row": 1}, {"row": [2]}]


def full(_asked: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that meets a full disk while it reads something."""
    try:
        raise OSError(28, os.strerror(28))
    except OSError as error:
        msg = "x cannot be loaded"
        raise MachineError(msg) from error


def test_a_full_disk_is_told_whatever_met_it() -> None:
    with pytest.raises(ResourceError, match="x cannot be loaded"):
        worker.run(f"{__name__}:full", {}, silent, what="it")


@pytest.mark.parametrize("code", [0, 7])
def test_what_a_step_leaves_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if code:
        with pytest.raises(RuntimeError, match="exit code 7"):
            worker.run(f"{__name__}:litter", {"code": code}, silent, what="it")
    else:
        told = worker.run(f"{__name__}:litter", {"code": code}, silent, what="it")
        assert Path(told["place"]).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_step_whose_parent_has_died_before_it_began_does_nothing(tmp_path: Path) -> None:
    """Its parent is another than the one that it was started for."""
    request, done = tmp_path / "request", tmp_path / "done"
    request.write_text("{}")
    other = str(os.getppid())
    command = [
        sys.executable,
        "-P",
        "-m",
        "exporter.system.worker",
        "tests.system.test_worker:touch",
    ]
    environment = {**worker.child_environment(), "EXPORTER_DONE": str(done)}
    ended = subprocess.run([*command, str(request), other], env=environment, check=False)
    assert ended.returncode == 1
    assert not done.exists()
    subprocess.run([*command, str(request), str(os.getpid())], env=environment, check=True)
    assert done.exists()


def touch(_asked: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that can be seen to have run."""
    Path(os.environ["EXPORTER_DONE"]).touch()
    return {}


def test_a_step_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "from exporter.system import worker as child;"
        "from exporter.system.progress import silent;"
        "child.run('tests.system.test_worker:linger', {}, silent, what='it')"
    )
    environment = {**os.environ, "EXPORTER_DONE": str(tmp_path / "pid"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        assert wait_until((tmp_path / "pid").exists)
        step = int((tmp_path / "pid").read_text())
        parent.kill()
    assert wait_until(lambda: not Path(f"/proc/{step}").exists())


def linger(_asked: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that does not end by itself."""
    half = Path(os.environ["EXPORTER_DONE"]).with_name("half")
    half.write_text(str(os.getpid()))
    half.rename(os.environ["EXPORTER_DONE"])
    signal.pause()
    return {}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(5, os.strerror(5)), "the disk failed: "),
        (OSError(122, os.strerror(122)), "out of disk or memory: "),
        (RuntimeError("could not create a primitive"), "out of disk or memory: "),
        (ResourceError("write failed: File too large"), "out of disk or memory: "),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of disk or memory: "),
    ],
)
def test_a_disk_that_fails_is_no_bug(error: Exception, told: str) -> None:
    assert exhausted(error)
    assert exhaustion(error).startswith(told)


SECRETS = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GH_PAT", "GITHUB_TOKEN", "OPENAI_KEY", "MY_API_KEY"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "DATABASE_URL", "SSH_AUTH_SOCK", "NETRC"),
    *("PIP_INDEX_URL", "UV_INDEX_URL", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_ENDPOINT"),
    *("EXPORTER_TOKEN", "ORT_API_KEY", "TORCH_HUB_PASSWORD", "PYTHON_KEYRING_SECRET", "MYKEY"),
    *("KUBECONFIG", "GPG_AGENT_INFO", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "DISPLAY"),
)
NEEDED = {
    **{"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", "CXX": "g++", "CPATH": "/opt/include"},
    **{"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "HF_HOME": "/h", "XDG_CACHE_HOME": "/c"},
    **{"EXPORTER_CACHE": "/e", "ORT_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": "0"},
}


def environment(_asked: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that tells what it, and a compiler of its, got."""
    below = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    return {"here": dict(os.environ), "below": below}


def test_a_step_gets_what_it_needs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "https://me:c4n4ry@example.org")
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    told = worker.run("tests.system.test_worker:environment", {}, silent, what="it")
    assert "c4n4ry" not in str(told)
    assert told["here"].items() >= NEEDED.items()
    assert told["here"]["PATH"] == os.environ["PATH"]


def test_the_list_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "trust.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"## The environment of worker.*?^## ", page, flags=re.DOTALL | re.M)
    for name in PASSED_ON.split():
        assert name in told or name.startswith("XDG_"), name


def test_a_compiler_that_is_asked_for_its_version_gets_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho version ${GH_PAT:-none}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("GH_PAT", "c4n4ry")
    assert hardware.cxx_compiler() == {"command": str(compiler), "version": "version none"}
