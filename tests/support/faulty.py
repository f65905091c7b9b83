"""Pushes and pulls made again and again from one state, with other requests of them broken.

Shared by the tests, which take a sample, and the long sweeps, which take everything.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from importlib.metadata import version
from itertools import combinations, product
from pathlib import Path
from shutil import rmtree
from typing import Any, Generic, TypeVar

from exporter.artifact import store
from exporter.errors import HubError
from exporter.hub import pull, push
from exporter.hub.pull import Pulled
from exporter.hub.push import Pushed, Way, plan_push
from exporter.system.progress import silent
from tests.support import passing
from tests.support.hub import Fault, Hub, Repo, Request

Record = Callable[[str, object], None]
WAYS: dict[str, dict[str, Any]] = {"main": {}, "request": {"pull_request": True}}
Breaks = Mapping[int, Fault]


def prove(record: Record, promise: str, cases: int, measured: str) -> None:
    """Note what a test has shown, and with which release of the library."""
    record("promise", promise)
    record("cases", cases)
    record("hub", version("huggingface_hub"))
    record("measured", measured)


def standing_artifact(folder: Path) -> Path:
    """What a push has to replace: other weights, and one file more."""
    return passing.make(folder, seed=3, more={"old.onnx_data": b"o" * 99})


def gone_from(first: int, how: Fault) -> Callable[[int, Request], Fault]:
    """A Hub that breaks at a request, and is not there for any later one."""

    def fault(number: int, _asked: Request) -> Fault:
        if number < first:
            return None
        return how if number == first else "before"

    return fault


Done = TypeVar("Done")


class Repeated(ABC, Generic[Done]):
    """One command against the Hub, made again and again from its first state."""

    hub: Hub
    requests: int

    @abstractmethod
    def again(self) -> Done:
        """The command, from whatever state there is."""

    @abstractmethod
    def reset(self) -> None:
        """The first state, with an empty cache and no request yet."""

    @abstractmethod
    def require_nothing_half(self, note: object) -> None:
        """After the command failed, there is nothing half-done."""

    def anew(self, breaks: Breaks) -> Done:
        """From the first state; each of the `breaks` has to be met."""
        self.reset()
        left = dict(breaks)
        self.hub.fault = lambda number, _asked: left.pop(number, None)
        done = self.again()
        assert not left, f"it never asked so often: {left}"
        return done

    def cut_off(self, first: int, how: Fault) -> None:
        """From the first state, with a Hub that breaks at a request, and is gone from then on."""
        self.reset()
        self.hub.fault = gone_from(first, how)
        try:
            self.again()
        except HubError:
            self.require_nothing_half((how, first))
        else:
            assert first == self.requests - 1, "it did without the Hub"
        self.hub.fault = lambda _number, _asked: None


class Pushing(Repeated[Pushed]):
    """A push of one artifact, to a repository that is new or holds another one."""

    def __init__(self, hub: Hub, root: Path, way: str, *, standing: bool) -> None:
        self.hub, self.way, self._root = hub, Way(**WAYS[way]), root
        old = standing_artifact(root / "old" / "onnx-int8")
        if standing:
            list(push.push(plan_push(old, None, None), Way(), silent))
        self._before = deepcopy(hub.repos), dict(hub.large)
        self._commits = 3 if standing else 2
        self.plans = plan_push(passing.make(root / "new" / "onnx-int8"), None, None)
        for _ in range(2):  # newer releases ask some things once per process
            self.require_whole(self.anew({}), "unbroken")
        self.requests = len(hub.requests)

    def reset(self) -> None:
        self.hub.repos, self.hub.large = deepcopy(self._before[0]), dict(self._before[1])
        rmtree(self._root / "cache", ignore_errors=True)
        self.hub.requests.clear()

    def again(self) -> Pushed:
        (one,) = push.push(self.plans, self.way, silent)
        return one

    def require_nothing_half(self, note: object) -> None:
        """What others see is wholly the old state or wholly the new one, and so are all tags."""
        for repo in self.hub.repos.values():
            old = self._before[0].get("org/speech")
            seen = [*repo.names("heads").values(), *repo.names("pr").values()]
            for sha in (*seen, *repo.names("tags").values()):
                names = set(repo.commits[sha].files)
                known = [self._new(), {".gitattributes"}]
                known += [set(old.files)] if old else []
                assert names in known, note
            assert len(repo.commits) <= self._commits, note
            tag = repo.names("tags").get(self.plans[0].tag)
            assert tag is None or set(repo.commits[tag].files) == self._new(), note

    def require_whole(self, one: Pushed, note: object) -> None:
        """Everything has arrived in exactly one commit, and that is tagged."""
        repo = self.hub.repos["org/speech"]
        assert len(repo.commits) == self._commits, note  # no half ones, and none twice
        files = repo.commits[one.commit].files
        assert set(files) == self._new(), note
        assert all(files[item.path].data == _bytes(item.source) for item in self._items()), note
        tagged = repo.names("tags").get(self.plans[0].tag) == one.commit
        assert tagged != self.way.pull_request, note

    def _items(self) -> Iterable[Any]:
        return self.plans[0].items

    def _new(self) -> set[str]:
        return {item.path for item in self._items()} | {".gitattributes"}


def _bytes(source: bytes | Path) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def survive_one(pushing: Pushing, faults: Iterable[Fault]) -> int:
    """Every request broken once, in each of the ways; how many pushes that were."""
    cases = list(product(faults, range(pushing.requests)))
    for fault, broken in cases:
        one = pushing.anew({broken: fault})
        assert one.changed, (fault, broken)
        pushing.require_whole(one, (fault, broken))
    return len(cases)


def survive_two(pushing: Pushing, faults: Iterable[tuple[Fault, Fault]]) -> int:
    """Every two requests broken, in each of the pairs of ways; how many pushes that were."""
    cases = list(product(faults, combinations(range(pushing.requests), 2)))
    for (early, late), (first, second) in cases:
        one = pushing.anew({first: early, second: late})
        pushing.require_whole(one, (early, first, late, second))
    return len(cases)


def cut_off_and_again(pushing: Pushing, faults: Iterable[Fault]) -> int:
    """The Hub gone from each request on; then there again, for one more push."""
    cases = list(product(faults, range(pushing.requests)))
    for fault, first in cases:
        pushing.cut_off(first, fault)
        pushing.require_whole(pushing.again(), (fault, first))
    return len(cases)


class Pulling(Repeated[Pulled]):
    """A pull of one artifact into an empty folder, with an empty cache."""

    def __init__(self, hub: Hub, root: Path) -> None:
        self.hub, self._root = hub, root
        self.origin = passing.make(root / "origin" / "onnx-int8")
        list(push.push(plan_push(self.origin, None, None), Way(), silent))
        self.place = root / "pulled" / "org" / "speech"
        for _ in range(2):
            self.anew({})
        self.requests = len(hub.requests)

    @property
    def repo(self) -> Repo:
        return self.hub.repos["org/speech"]

    def reset(self) -> None:
        for name in ("cache", "pulled"):
            rmtree(self._root / name, ignore_errors=True)
        self.hub.requests.clear()

    def again(self) -> Pulled:
        got = pull.pull("org/speech", self._root / "pulled")
        assert store.verify(self.place) == store.verify(self.origin)
        return got

    def require_nothing_half(self, note: object) -> None:
        assert not self.place.exists(), note
        assert not list(self._root.joinpath("pulled").rglob("*.partial-*")), note

    def bodies(self) -> list[str]:
        """The files whose bytes were asked for, in order."""
        return [str(one.file) for one in self.hub.requests if one.method == "GET" and one.file]


def pull_through_one(pulling: Pulling, faults: Iterable[Fault]) -> int:
    """Every request of a pull broken once, in each of the ways; how many pulls that were."""
    cases = list(product(faults, range(pulling.requests)))
    for fault, broken in cases:
        assert pulling.anew({broken: fault}).fresh, (fault, broken)
    return len(cases)


def pull_again_after(pulling: Pulling, faults: Iterable[Fault]) -> int:
    """The Hub gone from each request on, then there again: nothing whole is fetched twice."""
    cases = list(product(faults, range(pulling.requests)))
    for fault, first in cases:
        pulling.cut_off(first, fault)
        whole = {path.resolve().name for path in _snapshots(pulling)}
        pulling.hub.requests.clear()
        pulling.again()
        names = {pulling.repo.files[name].oid for name in pulling.bodies()}
        assert not names & whole, (fault, first)
    return len(cases)


def _snapshots(pulling: Pulling) -> Iterable[Path]:
    found = pulling._root.joinpath("cache").glob("models--org--speech/snapshots/*/*")
    return [path for path in found if path.exists()]
