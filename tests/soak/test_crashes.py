"""Builds killed everywhere, and the order in which they write. Requirements `strace`."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support import sweeps
from tests.support.faults import Place, Server, place, serving, start, wait_until
from tests.support.sweeps import BY_NAME, TO_DISK, Case
from tests.support.traced import MISSING, present

Record = Callable[[str, object], None]
KINDS = ("torch-int8", "onnx-int8", "aoti")


@dataclass(frozen=True)
class Cases:
    """A case of each kind, made when it is first asked for, all in one folder."""

    server: Server
    where: Place
    made: dict[str, Case]

    def of(self, kind: str) -> Case:
        if kind not in self.made:
            self.made[kind] = Case(self.server, self.where.of(kind), over=False)
        return self.made[kind]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    assert present(), MISSING
    with serving() as server:
        yield Cases(server, place(tmp_path_factory.mktemp("crashes")), {})


@pytest.mark.parametrize("over", [False, True], ids=["in an empty place", "over another"])
def test_killed_at_every_file_system_event(
    cases: Cases, over: bool, tmp_path_factory: pytest.TempPathFactory, record_property: Record
) -> None:
    case = Case(cases.server, place(tmp_path_factory.mktemp("every")), over=over)
    tried = sweeps.kill_at_events(case, None)
    record_property("promise", "P1")
    record_property("cases", tried)
    record_property("measured", f"each of {tried} events of Python's")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("calls", [BY_NAME, TO_DISK])
def test_killed_at_every_system_call_that_counts(
    cases: Cases, kind: str, calls: str, record_property: Record
) -> None:
    tried = sweeps.kill_at_calls(cases.of(kind), calls)
    assert tried > 3
    record_property("promise", "P1")
    record_property("cases", tried)
    record_property("measured", f"{kind}: each of {tried} calls of {calls.replace(',', ' or ')}")


@pytest.mark.parametrize(("kind", "times"), [("torch-int8", 34), ("onnx-int8", 12), ("aoti", 4)])
def test_killed_at_any_time(cases: Cases, kind: str, times: int, record_property: Record) -> None:
    case, chance = cases.of(kind), random.Random(kind)
    case.where.restore()
    begun = time.monotonic()
    assert start(case.where, case.arguments).wait() == 0
    whole, late = time.monotonic() - begun, 0
    for _ in range(times):
        case.where.restore()
        with start(case.where, case.arguments) as process:
            time.sleep(chance.uniform(0, whole))
            process.kill()
        late += process.returncode == 0
        case.stands()
        assert wait_until(lambda: not case.where.running())
    record_property("promise", "P1")
    record_property("cases", times)
    record_property("measured", f"{kind}: {times - late} of {times} before the end")


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_writes(cases: Cases, kind: str, record_property: Record) -> None:
    told = sweeps.order_of_writes(cases.of(kind))
    assert told.violations == []
    record_property("promise", "P2")
    record_property("cases", told.renames)
    record_property(
        "measured", f"{kind}: {told.syncs} syncs, {told.renames} renames, 0 out of order"
    )
