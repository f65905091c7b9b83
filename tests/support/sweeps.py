"""Sweeps over the points at which a build may be hit: a few of them in tests, all in `soak`.

Each gives how many points it has tried; what must hold after each is asserted on the way.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from exporter.artifact.manifest import Manifest
from tests.support.faults import (
    OTHER,
    Place,
    Ran,
    Server,
    after_a_kill,
    after_a_rerun,
    made_of,
    one_error,
)
from tests.support.traced import CALLS, Order

BY_NAME = "rename,renameat,renameat2"
TO_DISK = "fsync,fdatasync"


def spread(total: int, wanted: int | None) -> list[int]:
    """So many of the points 1 to `total`, evenly, the last among them; all if not `wanted`."""
    if wanted is None or wanted >= total:
        return list(range(1, total + 1))
    return sorted({round(total * (each + 1) / wanted) for each in range(wanted)})


class Case:
    """A build that is to be disturbed: in an empty place, or over another artifact."""

    def __init__(self, server: Server, where: Place, *, over: bool) -> None:
        self.server, self.where = server, where
        self.arguments = [*where.building, "--force"] if over else where.building
        where.restore()
        where.forget()
        self._done(where.building)  # also fills the cache
        (self.wanted,) = where.listed()
        where.forget()
        self.before: Manifest | None = None
        if over:
            self._done([*where.building, *OTHER[where.target]])
            (self.before,) = where.listed()
        where.keep()
        self.events = self._done(self.arguments).events

    def hit(self, **how: object) -> Ran:
        """Have everything as it was, and run it disturbed."""
        self.where.restore()
        return self.server.run(self.where, self.arguments, **how)  # type: ignore[arg-type]

    def stands(self) -> None:
        """Nothing half-built is found, and a rerun gives what an undisturbed build does."""
        after_a_kill(self.where, self.before, self.wanted)
        again = self.server.run(self.where, self.arguments)
        after_a_rerun(self.where, again, self.wanted)

    def refused(self, ran: Ran) -> None:
        """An error of one line, its exit code, nothing left; or no harm, and a whole artifact."""
        listed = [made_of(each) for each in self.where.listed()]
        before = [] if self.before is None else [made_of(self.before)]
        if ran.code:
            assert ran.code == 8, (ran.code, ran.said)
            one_error(ran)
            assert listed in (before, [made_of(self.wanted)])
        else:
            assert listed == [made_of(self.wanted)], ran.said
        assert self.where.left() == [], (self.where.left(), ran)

    def _done(self, arguments: Sequence[str]) -> Ran:
        ran = self.server.run(self.where, arguments)
        assert ran.code == 0, ran.said
        return ran


def kill_at_events(case: Case, wanted: int | None, action: str = "kill all") -> int:
    """Kill it, with all that it started, at file-system events of Python's."""
    points = spread(len(case.events), wanted)
    for at in points:
        ran = case.hit(at=at, action=action)
        assert ran.code in (-9, 8), (at, ran)  # 8: a step alone was killed
        case.stands()
    return len(points)


def kill_at_calls(case: Case, calls: str, limit: int | None = None) -> int:
    """Kill it at each of some system calls, counted in each process."""
    for at in _counting(limit):
        options = ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=SIGKILL:when={at}"]
        ran = case.hit(strace=options)
        if not _injected(case.where):
            return at - 1
        assert ran.code in (-9, 8), (at, ran.said)
        case.stands()
    return at


def fail_at_events(case: Case, wanted: int | None, error: str) -> int:
    """Let file-system events of Python's fail that need room: no removals, no reading."""
    harmless = "read", "os.remove", "os.rmdir"
    needy = [at for at, event in enumerate(case.events, 1) if not event.startswith(harmless)]
    points = [needy[each - 1] for each in spread(len(needy), wanted)]
    for at in points:
        case.refused(case.hit(at=at, action=error))
    return len(points)


def fail_at_calls(case: Case, calls: str, error: str, points: Sequence[int]) -> int:
    """Let system calls fail, counted in each process; gives at how many points one did."""
    failed = 0
    for at in points:
        options = ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={at}"]
        ran = case.hit(strace=options)
        if not _injected(case.where):
            break
        failed += 1
        case.refused(ran)
    return failed


def order_of_writes(case: Case) -> Order:
    """Write down what a build does to the disk, and judge its order."""
    ran = case.hit(strace=["-e", f"trace={CALLS}"])
    assert ran.code == 0, ran.said
    return Order(case.where.base).read(case.where.base / "trace")


def interrupt(case: Case, wanted: int | None, number: str, code: int) -> int:
    """Send a signal at file-system events; the command ends as interrupted, or had ended."""
    points = spread(len(case.events), wanted)
    for at in points:
        ran = case.hit(at=at, action=number)
        listed = case.where.listed()
        if ran.code != code:  # it came when all was done
            assert ran.code == 0, (at, ran.said)
            assert [made_of(each) for each in listed] == [made_of(case.wanted)]
        assert "Traceback" not in ran.said, (at, case.events[at - 1], ran.said)
        after_a_kill(case.where, case.before, case.wanted)
        assert case.where.left() == [], (at, case.events[at - 1])
        assert case.where.running() == []
    return len(points)


def interrupt_validation(server: Server, where: Place, wanted: int, number: str, code: int) -> int:
    """Send a signal at file-system events of a validation, which leaves the artifact as it was."""
    arguments = ["validate", str(where.final)]
    (before,) = where.listed()
    total = len(server.run(where, arguments).events)
    points = spread(total, wanted)
    for at in points:
        ran = server.run(where, arguments, at=at, action=number)
        assert ran.code in (code, 0), (at, ran.said)
        assert ran.code or at > total - 5, (at, total)
        assert "Traceback" not in ran.said, (at, ran.said)
        assert where.listed() == [before]
        assert where.left() == [], (at, where.left())
        assert where.running() == []
    return len(points)


def _counting(limit: int | None) -> Iterator[int]:
    at = 0
    while limit is None or at < limit:
        at += 1
        yield at


def _injected(where: Place) -> bool:
    """Whether the tracer has met the point: a run with fewer calls has none."""
    told = Path(where.base / "trace").read_text(errors="replace")
    return "INJECTED" in told or "killed by SIGKILL" in told


def one_wins(server: Server, where: Place, copies: int) -> int:
    """Several builds of one target at once: one builds it, the others wait for nobody."""
    where.restore()
    where.forget()
    rans = server.together(where, [*where.building, "--json"], copies)
    built = [ran for ran in rans if ran.code == 0 and '"reused": false' in ran.said]
    assert len(built) == 1, [ran.said for ran in rans]
    for ran in rans:
        assert ran.code in (0, 9), ran.said
        assert ran.code == 0 or "another build" in one_error(ran)
    (found,) = where.listed()
    assert f'"digest": "{found.digest}"' in built[0].said
    assert found.digest in where.registry()
    assert where.left() == []
    return copies


def cache_is_shared(server: Server, where: Place, copies: int) -> int:
    """Several builds at once, each to its own place, with an empty cache that they share."""
    where.restore()
    where.forget()
    rans = server.together(where, [*where.building, "--output", "artifactsCOPY"], copies)
    assert [ran.code for ran in rans] == [0] * copies, [ran.said for ran in rans]
    assert not any("warning" in ran.said for ran in rans), [ran.said for ran in rans]
    found = [where.listed(f"artifacts{copy}") for copy in range(copies)]
    first = made_of(found[0][0])
    assert [[made_of(each) for each in listed] for listed in found] == [[first]] * copies
    assert where.left() == []
    return copies
