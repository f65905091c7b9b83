"""Hash the clips of a recipe again, to tell whether they are still those of a report."""

from pathlib import Path

from exporter.artifact import local_paths
from exporter.artifact.manifest import Manifest
from exporter.artifact.report import Report
from exporter.errors import DataError
from exporter.formats.clips.addresses import source_at
from exporter.recipe import Recipe
from exporter.system.progress import Progress
from exporter.system.tempdirs import scratch
from exporter.validate.corpus.index import sha256_of


class Rereader:
    """Hashes clips, each corpus once; nothing is decoded or downloaded."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._known: dict[object, str] = {}

    def __call__(
        self, folder: Path, manifest: Manifest, recipe: Recipe, judged: Report
    ) -> str | None:
        """Return the hash of a recipe's clips as they are now; of those that a report judged.

        Args:
            folder: The artifact.
            manifest: Its manifest.
            recipe: Its sealed recipe.
            judged: Its report.

        Returns:
            The hash as a report has it. None if the clips are not on this machine: a dataset of the
            Hub or in an object store, a recipe without data, or a path that leads to nothing here.
            Clips that can no longer be read have a hash that no report has.
        """
        data = recipe.data
        if data is None or data.clips is None:
            return None
        base = Path(local_paths.read(folder, manifest).recipe).parent
        source = source_at(base, data.clips)
        if not isinstance(source, Path) or not source.exists():
            return None
        unreadable = judged.data.unreadable
        looks = judged.looks.planned[: judged.looks.made] if judged.looks else ()
        key = str(source.resolve()), data.max_clips, data.seed, looks, unreadable
        if key not in self._known:
            self._progress(f"{folder.name}: reading its clips again", None)
            try:
                with scratch() as place:
                    self._known[key] = sha256_of(data, base, place, unreadable, looks=looks)
            except (DataError, OSError):
                self._known[key] = "unreadable"
        return self._known[key]
