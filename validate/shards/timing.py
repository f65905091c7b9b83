"""Times that are taken on another machine, which is kept for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.engine.executors import Task
from exporter.formats.clips import Clip
from exporter.formats.clips.opening import Opener
from exporter.system.tempdirs import scratch
from exporter.validate.measure.pair import PairRequest


@dataclass(frozen=True, kw_only=True)
class TimingTask(Task):
    """Measures an artifact beside its original, where it runs.

    Attributes:
        pair: Both measurements.
        clips: The clip of each file that the request names, as plain data: it is opened there.
    """

    pair: PairRequest
    clips: dict[Path, list[Any]]

    @contextmanager
    def prepared(self) -> Iterator[dict[str, Any]]:
        with scratch() as place, Opener() as opener:
            moved = {
                path: opener.staged(Clip.of_row(row), place, f"{number:06}")[0].path.resolve()
                for number, (path, row) in enumerate(self.clips.items())
            }
            yield self.pair.with_paths(moved).model_dump(mode="json")


def timing_task(pair: PairRequest, clips: dict[Path, Clip]) -> TimingTask:
    """Return what measures a pair; `clips` are those of its files."""
    return TimingTask(
        step="exporter.validate.measure.pair:measure",
        request={},
        what=pair.name,
        gpus=int(pair.artifact.spec.device != "cpu"),
        pair=pair,
        clips={path: clip.anywhere().to_row() for path, clip in clips.items()},
    )
