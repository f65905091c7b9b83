"""Find faults in any folder of a speech model without running anything in it.

Files are read as data, up to fixed limits; the only weights that are read are small scales. A file
that cannot be read is a finding. Each check is a function of the folder; to add one, write it in
the module of its subject and add it to that module's `CHECKS`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.artifact.lookup import require_model
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
    """The findings about a folder, each with the name of its check.

    Attributes:
        source: The folder or Hub id, as given.
        looks_like: The folder's layout, model and size in one line.
        layout: The layout's name in `detect.LAYOUTS`.
        size_bytes: Bytes of all files.
        found: Pairs of check and finding, problems first.
    """

    source: str
    looks_like: str
    layout: str
    size_bytes: int
    found: tuple[tuple[str, Finding], ...]

    def of(self, level: Level) -> list[Finding]:
        """Return the findings of a level."""
        return [finding for _, finding in self.found if finding.level == level]

    def as_row(self) -> dict[str, Any]:
        """Return the diagnosis as data, as `--json` prints it."""
        rows = [{"check": name, **vars(finding)} for name, finding in self.found]
        counts = {f"{level}s": len(self.of(level)) for level in LEVELS}
        facts = {"source": self.source, "looks_like": self.looks_like, "layout": self.layout}
        return {**facts, "size_bytes": self.size_bytes, **counts, "findings": rows}


def examine(source: str, progress: Progress = silent) -> Diagnosis:
    """Examine a folder or a Hub repository.

    Args:
        source: A folder, or `ORG/NAME` or `ORG/NAME@REVISION` on the Hub.
        progress: Receives the name of each check and the fraction done.

    Returns:
        The findings of all checks, problems first.

    Raises:
        RecipeError: `source` is neither a folder nor a Hub id, or is a folder of artifacts.
        CheckpointError: The repository holds no configs and no ONNX graphs.
        HubError: The Hub refused, or did not answer.
    """
    folder = _opened(source, progress)
    findings = sorted(_found(folder, progress), key=lambda each: LEVELS.index(each[1].level))
    looks_like = printable(described(folder))
    return Diagnosis(
        printable(source), looks_like, layout(folder).name, folder.size_bytes, tuple(findings)
    )


def _opened(source: str, progress: Progress) -> Folder:
    """Open `source`: a Hub id only if neither the path nor its first component exists."""
    place = Path(source)
    if place.is_dir():
        require_model(place)
        return listed(place)
    named = hub_id(source)
    if place.exists() or named is None or any(Path(first).exists() for first in place.parts[:1]):
        msg = f"{source}: not a folder: name a model's folder, or a Hub id like ORG/NAME"
        raise RecipeError(msg)
    return fetch.brought(*named, progress)


def _found(folder: Folder, progress: Progress) -> Iterator[tuple[str, Finding]]:
    """Yield the findings of all checks, then those about unreadable files."""
    for count, check in enumerate(CHECKS):
        progress(f"checking {check.__name__.replace('_', ' ')}", count / len(CHECKS))
        for finding in check(folder):
            yield check.__name__, _shown(finding)
    for finding in folder.unread:
        yield "unreadable", _shown(finding)


def _shown(finding: Finding) -> Finding:
    where, what, fix = map(printable, (finding.where, finding.what, finding.fix))
    return replace(finding, where=where, what=what, fix=fix)
