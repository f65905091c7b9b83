"""Find the checkpoint that an artifact was built from, and check its hash."""

from os.path import normpath
from pathlib import Path
from shlex import quote

from exporter.artifact import local_paths
from exporter.artifact.manifest import Manifest
from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint, warn_of_adapter
from exporter.errors import CheckpointError, IntegrityError
from exporter.system.progress import Progress


class References:
    """Opens each checkpoint once, because hashing gigabytes of weights takes long.

    `remedy` is the advice in messages about an original that is missing or is another one; the
    artifact's path, quoted for a shell, replaces `ARTIFACT` in it.
    """

    def __init__(self, remedy: str, progress: Progress) -> None:
        self._remedy = remedy
        self._progress = progress
        self._opened: dict[tuple[str, str | None], Checkpoint] = {}

    def open(
        self,
        source: str,
        base: Path = Path(),
        *,
        allow_pickle: bool = False,
        language: str | None = None,
    ) -> Checkpoint:
        """Open a checkpoint by folder or Hub id; raises the exceptions of `open_checkpoint`.

        A checkpoint of many languages is opened once for each.
        """
        place = str(base / source)
        for key in ((place, language), (place, None)):
            known = self._opened.get(key)
            if known is not None and (key[1] == language or known.language is None):
                return known
        opened = open_checkpoint(
            source, base, self._progress, allow_pickle=allow_pickle, language=language
        )
        warn_of_adapter(opened)
        self._opened[place, language if opened.language else None] = opened
        return opened

    def of_artifact(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        allow_pickle: bool = False,
        language: str | None = None,
    ) -> Checkpoint:
        """Open the checkpoint that an artifact was built from, in the recipe's language.

        Raises:
            CheckpointError: It is missing.
            IntegrityError: A different checkpoint is in its place.
        """
        origin, recorded = manifest.checkpoint, local_paths.read(folder, manifest)
        source = recorded.checkpoint
        if origin.revision:  # the commit of the build: a branch may have moved since
            source = f"{origin.source.partition('@')[0]}@{origin.revision}"
        # A recipe's path is relative to its folder, `--checkpoint` to the working directory.
        beside = Path(recorded.recipe).parent
        base = beside if (beside / source).is_dir() else Path()
        remedy = self._remedy.replace("ARTIFACT", quote(str(folder)))
        if not origin.revision and not (base / source).is_dir():
            looked = normpath((beside / source).absolute())
            msg = f"{folder}: its original is not at {looked}.\nIf it is elsewhere: {remedy}"
            raise CheckpointError(msg)
        checkpoint = self.open(source, base, allow_pickle=allow_pickle, language=language)
        if checkpoint.sha256 != origin.sha256:
            msg = (
                f"{checkpoint.folder} is not the checkpoint that {folder} was built from.\n"
                f"Build again; or if it is elsewhere: {remedy}"
            )
            raise IntegrityError(msg)
        return checkpoint
