"""Find the checkpoint that an artifact was built from, and check its hash."""

from pathlib import Path

from exporter.artifact import local_paths
from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.errors import CheckpointError, IntegrityError
from exporter.system.progress import Progress


class References:
    """Opens checkpoints once each, because hashing gigabytes of weights takes a while.

    `remedy` is what a message tells to do where an original is not the one that is meant.
    """

    def __init__(self, remedy: str, progress: Progress) -> None:
        self._remedy = remedy
        self._progress = progress
        self._opened: dict[str, Checkpoint] = {}

    def open(self, source: str, base: Path = Path(), *, allow_pickle: bool = False) -> Checkpoint:
        """A checkpoint by folder or Hub id, whatever it is; raises what `open_checkpoint` does."""
        key = str(base / source)
        if key not in self._opened:
            self._opened[key] = open_checkpoint(
                source, base, self._progress, allow_pickle=allow_pickle
            )
        return self._opened[key]

    def of_artifact(
        self, folder: Path, manifest: Manifest, *, allow_pickle: bool = False
    ) -> Checkpoint:
        """An artifact's own origin, read as its recipe allows.

        Raises CheckpointError where it is gone, IntegrityError where another one stands there.
        """
        origin, noted = manifest.checkpoint, local_paths.read(folder, manifest)
        source = noted.checkpoint
        if origin.revision:  # what a branch named when the artifact was built, not what it does now
            source = f"{origin.source.partition('@')[0]}@{origin.revision}"
        # A recipe names its checkpoint from its own folder, `build --checkpoint` from where it ran.
        beside = Path(noted.recipe).parent
        base = beside if (beside / source).is_dir() else Path()
        if not origin.revision and not (base / source).is_dir():
            msg = f"{folder}: its original is not at {source}: {self._remedy}"
            raise CheckpointError(msg)
        checkpoint = self.open(source, base, allow_pickle=allow_pickle)
        if checkpoint.sha256 != origin.sha256:
            msg = (
                f"{checkpoint.folder} is not the checkpoint that {folder} was built from.\n"
                f"Build again, or {self._remedy}."
            )
            raise IntegrityError(msg)
        return checkpoint
