"""What is wrong with anybody's folder of a speech model, and how to mend it: nothing of it is run.

Files are read as data and within bounds, weights stay where they are but for small scales, and
whatever cannot be read is a finding. Each check is a function of the folder; to add one, write it
in the module of its subject and name it in that module's `CHECKS`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.doctor import fetch
from exporter.doctor.checks import (
    decoder_graphs,
    files,
    onnx_files,
    quantized_ops,
    runtimes,
    weights,
    whisper,
)
from exporter.doctor.detect import described, layout
from exporter.doctor.finding import LEVELS, Finding, Level, printable
from exporter.doctor.folder import Folder, listed
from exporter.errors import RecipeError
from exporter.hub.client import hub_id
from exporter.system.progress import Progress, silent

Check = Callable[[Folder], Iterable[Finding]]
CHECKS: tuple[Check, ...] = (
    *files.CHECKS,
    *whisper.CHECKS,
    *onnx_files.CHECKS,
    *quantized_ops.CHECKS,
    *decoder_graphs.CHECKS,
    *runtimes.CHECKS,
    *weights.CHECKS,
)


@dataclass(frozen=True)
class Diagnosis:
    """What a folder looks like, and what was found, each with the name of its check."""

    source: str
    looks_like: str
    layout: str
    size_bytes: int
    found: tuple[tuple[str, Finding], ...]

    def of(self, level: Level) -> list[Finding]:
        """The findings of a level."""
        return [finding for _, finding in self.found if finding.level == level]

    def as_row(self) -> dict[str, Any]:
        """Everything as data."""
        rows = [{"check": name, **vars(finding)} for name, finding in self.found]
        counts = {f"{level}s": len(self.of(level)) for level in LEVELS}
        facts = {"source": self.source, "looks_like": self.looks_like, "layout": self.layout}
        return {**facts, "size_bytes": self.size_bytes, **counts, "findings": rows}


def examine(source: str, progress: Progress = silent) -> Diagnosis:
    """Examine a folder, or a repository of the Hub by `ORG/NAME` or `ORG/NAME@REVISION`.

    Raises RecipeError where there is neither, and HubError.
    """
    folder = _opened(source, progress)
    found = sorted(_found(folder, progress), key=lambda each: LEVELS.index(each[1].level))
    looks_like = printable(described(folder))
    return Diagnosis(
        printable(source), looks_like, layout(folder).name, folder.size_bytes, tuple(found)
    )


def _opened(source: str, progress: Progress) -> Folder:
    """A name is the Hub's if nothing lies there, nor in what would be its first folder."""
    place = Path(source)
    if place.is_dir():
        return listed(place)
    named = hub_id(source)
    if place.exists() or named is None or any(Path(first).exists() for first in place.parts[:1]):
        msg = f"{source}: no folder: give a model's folder, or a Hub id like ORG/NAME"
        raise RecipeError(msg)
    return fetch.brought(*named, progress)


def _found(folder: Folder, progress: Progress) -> Iterator[tuple[str, Finding]]:
    """What all checks find, then what could not be read for them."""
    for count, check in enumerate(CHECKS):
        progress(f"checking {check.__name__.replace('_', ' ')}", count / len(CHECKS))
        for finding in check(folder):
            yield check.__name__, _shown(finding)
    for finding in folder.unread:
        yield "unreadable", _shown(finding)


def _shown(finding: Finding) -> Finding:
    where, what, mend = map(printable, (finding.where, finding.what, finding.mend))
    return replace(finding, where=where, what=what, mend=mend)
