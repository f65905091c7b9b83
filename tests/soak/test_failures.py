"""Builds whose disk is full, or fails, anywhere. Requirements `strace`."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.support import sweeps
from tests.support.faults import Ran, Server, one_error, place, serving, start
from tests.support.sweeps import BY_NAME, TO_DISK, Case, spread
from tests.support.traced import MISSING, present

Record = Callable[[str, object], None]
CALLS = [
    ("write", "ENOSPC", spread(120, 20)),
    ("write", "EDQUOT", spread(110, 10)),
    ("write", "EIO", spread(115, 10)),
    ("sendfile", "ENOSPC", range(1, 20)),
    ("ftruncate", "ENOSPC", range(1, 5)),
    (TO_DISK, "EIO", range(1, 50)),
    (BY_NAME, "ENOSPC", range(1, 20)),
    (BY_NAME, "EIO", range(1, 20)),
    ("mkdir", "EDQUOT", range(1, 20)),
    ("mmap", "ENOMEM", range(1, 8)),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    assert present(), MISSING
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def over(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(server, place(tmp_path_factory.mktemp("over")), over=True)


@pytest.fixture(scope="module")
def onnx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(server, place(tmp_path_factory.mktemp("onnx"), "onnx-int8"), over=False)


@pytest.mark.parametrize(("calls", "error", "points"), CALLS)
def test_system_calls_that_fail(
    over: Case, calls: str, error: str, points: list[int], record_property: Record
) -> None:
    tried = sweeps.fail_at_calls(over, calls, error, points)
    record_property("promise", "P3")
    record_property("cases", tried)


@pytest.mark.parametrize(("calls", "error"), [("write", "ENOSPC"), (TO_DISK, "EIO")])
def test_system_calls_of_another_kind_that_fail(
    onnx: Case, calls: str, error: str, record_property: Record
) -> None:
    tried = sweeps.fail_at_calls(onnx, calls, error, spread(60, 15))
    record_property("promise", "P3")
    record_property("cases", tried)


@pytest.mark.parametrize(("error", "wanted"), [("ENOSPC", None), ("EDQUOT", 15), ("EIO", 15)])
def test_file_system_events_that_fail(
    over: Case, error: str, wanted: int | None, record_property: Record
) -> None:
    tried = sweeps.fail_at_events(over, wanted, error)
    record_property("promise", "P3")
    record_property("cases", tried)


@pytest.mark.parametrize("room", [0.02, 0.2, 0.8, 0.999])
def test_a_limit_on_file_size(over: Case, room: float, record_property: Record) -> None:
    """What fills up is met by real system calls, also by those of native code."""
    over.where.restore()
    limit = int(room * max(file.size_bytes for file in over.wanted.files))

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with start(over.where, over.arguments, before=little_room) as build:
        said = build.communicate()[1]
    over.refused(Ran(build.returncode, said, ()))
    assert build.returncode == 8
    record_property("promise", "P3")
    record_property("cases", 1)


@pytest.mark.parametrize(
    ("what", "room"),
    [("artifacts", "size=48k"), ("tmp", "nr_inodes=3"), ("cache", "size=48k")],
)
def test_a_file_system_that_is_full(
    onnx: Case, what: str, room: str, record_property: Record
) -> None:
    """A real one, of a few pages or names: whatever the plan has foreseen, it ends in order."""
    assert shutil.which("unshare"), "unshare is not here: apt install util-linux"
    onnx.where.restore()
    small = onnx.where.base / what
    if what == "cache":
        shutil.rmtree(small)
    small.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o {room} none "{small}"'
    build = f'"{sys.executable}" -m exporter {" ".join(onnx.arguments)}'
    left = f'find "{small}" -name "*partial*" -o -name "exporter-step*"'
    told = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} || exit 99; {build}; code=$?; {left}; exit $code"],
        cwd=onnx.where.base,
        env=onnx.where.surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "partial" not in told.stdout, told.stdout
    assert "exporter-step" not in told.stdout, told.stdout
    if what == "cache":  # of no weight
        assert (told.returncode, "nothing was kept" in told.stderr) == (0, True), told.stderr
    else:
        assert told.returncode == 8, (told.returncode, told.stderr)
        one_error(Ran(8, told.stderr, ()))
    record_property("promise", "P3")
    record_property("cases", 1)
