"""Shards that wait at a phase to be killed, as the tasks of `ray_cluster` do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.engine.executors import Task
from exporter.system.progress import Progress
from exporter.validate import rounds
from exporter.validate.measure import transcripts
from tests.support.ray_cluster import reach


@dataclass(frozen=True, kw_only=True)
class HeldShard(Task):
    """A task of a shard that waits before it is read, in the step, and around its part's name."""

    inner: Task
    folder: Path
    number: int

    def is_done(self) -> bool:
        return self.inner.is_done()

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        reach(self.folder, self.number, "prepare")
        with self.inner.prepared() as request:
            yield {"request": request, "folder": str(self.folder), "number": self.number}
            reach(self.folder, self.number, "rename")
        reach(self.folder, self.number, "renamed")


def transcribe(held: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Wait in the step's own process, and then transcribe."""
    folder, number = Path(held["folder"]), held["number"]
    with (folder / f"runs-{number}").open("a") as runs:
        runs.write("began\n")
    reach(folder, number, "work")
    return transcripts.transcribe(held["request"], progress)


def hold_all(folder: Path) -> None:
    """Let the shards of this process' validation wait where `ray_cluster.hold` asks for it."""
    made = rounds._Tasks.__getitem__

    def held(self: Any, place: int) -> Task:
        inner = made(self, place)
        assert isinstance(inner, Task)
        first = self.jobs[place][1].numbers.start
        number = first + 1000 * (self.jobs[place][0].listener.name != "original")
        return HeldShard(
            step=f"{__name__}:transcribe",
            request={},
            what=inner.what,
            threads=inner.threads,
            inner=inner,
            folder=folder,
            number=number,
        )

    rounds._Tasks.__getitem__ = held  # type: ignore[assignment, method-assign]
