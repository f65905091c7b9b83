"""A build that is killed, fails or is interrupted, at a few of the points that `soak` tries all."""

from collections.abc import Callable

import pytest

from tests.support import sweeps
from tests.support.faults import Server, place
from tests.support.sweeps import Case
from tests.support.traced import Order

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def case(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A build over another artifact."""
    return Case(server, place(tmp_path_factory.mktemp("crashes")), over=True)


def test_killed_at_file_system_events(case: Case, record_property: Record) -> None:
    cases = sweeps.kill_at_events(case, 3)
    record_property("promise", "P1")
    record_property("cases", cases)


def test_a_step_killed_alone(case: Case) -> None:
    assert sweeps.kill_at_events(case, 1, "kill") == 1


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO"])
def test_file_system_events_that_fail(case: Case, error: str, record_property: Record) -> None:
    cases = sweeps.fail_at_events(case, 2, error)
    record_property("promise", "P3")
    record_property("cases", cases)


def test_four_builds_of_one_target_at_once(case: Case, record_property: Record) -> None:
    cases = sweeps.one_wins(case.server, case.where, 4)
    record_property("promise", "P4")
    record_property("cases", cases)


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_interrupted_at_file_system_events(
    case: Case, number: str, code: int, record_property: Record
) -> None:
    cases = sweeps.interrupt(case, 2, number, code)
    record_property("promise", "P21")
    record_property("cases", cases)


GOOD = """\
1 mkdir("new", 0777) = 0
1 openat(AT_FDCWD</w>, "new/a", O_WRONLY|O_CREAT) = 3</w/new/a>
1 write(3</w/new/a>, "x", 1) = 1
1 fsync(3</w/new/a>) = 0
1 fsync(3</w/new>) = 0
1 rename("new", "kept/final") = 0
2 fsync(3</w/kept> <unfinished ...>
1 write(1</dev/null>, "x", 1) = 1
2 <... fsync resumed>) = 0
"""


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("", 0),
        ("1 fsync(3</w/new/a>) = 0\n", 1),
        ("1 fsync(3</w/new>) = 0\n", 1),
        ("2 fsync(3</w/kept> <unfinished ...>\n", 1),
    ],
    ids=["none", "the file's", "the folder's", "the one above"],
)
def test_a_missing_sync_is_seen(case: Case, missing: str, told: int) -> None:
    base = case.where.base
    log = base / "example"
    (base / "kept" / "final").mkdir(parents=True, exist_ok=True)
    log.write_text(GOOD.replace(missing, "", 1).replace("/w", str(base)))
    assert len(Order(base).read(log).violations) == told
