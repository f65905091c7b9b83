"""Download files of one commit into huggingface_hub's cache, with progress and hashes.

huggingface_hub downloads; added here are what it lacks: bytes told to our `Progress`, a transfer
that was cut taken up again, and a look at what arrived.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import HubError, exhausted
from exporter.hub.client import git_sha1
from exporter.hub.errors import Silence, root_of, status_of
from exporter.system.files import sha256_file
from exporter.system.progress import Progress, shown_bytes

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_TRIES = 4
_PAUSE_S = 1.0
_TELL_EVERY_S = 0.25
_LOOKS = 2


class Transfer:
    """One commit's files on their way into the cache, and how much of them has come."""

    def __init__(
        self, repo: str, commit: str, files: "Mapping[str, RepoSibling]", progress: Progress
    ) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        self.repo, self.commit, self.files = repo, commit, files
        self._progress = progress
        self._cache = Path(
            constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model")
        )
        self._done = self._total = 0

    def size(self, name: str) -> int:
        """A file's bytes, as the Hub lists them."""
        return self.files[name].size or 0

    def here(self, name: str) -> bool:
        """Whether a file's bytes are in the cache."""
        return self._blob(name).exists()

    def announce(self, names: list[str]) -> None:
        """Count what of `names` is to come, for the progress."""
        self._total = sum(self.size(name) for name in names if not self.here(name))

    def bring(self, name: str) -> Path:
        """Have one file in the cache, whole, and return its place in the snapshot.

        Bytes that arrive damaged are fetched once more.
        """
        fresh = not self.here(name)
        for _ in range(_LOOKS):
            with self._watched(name):
                path = self._downloaded(name)
            if not fresh or self._whole(path, name):
                break
            path.resolve().unlink()
        else:
            msg = (
                f"{name} of {self.repo} arrived damaged twice (its hash differs).\nRun this again."
            )
            raise HubError(msg)
        if fresh:
            self._done += self.size(name)
            self._tell(0)
        return path

    def forget_damaged(self, name: str) -> None:
        """Remove a file from the cache unless it is whole there, so that it is fetched anew."""
        if self.here(name) and not self._whole(self._blob(name), name):
            self._blob(name).unlink()

    def _blob(self, name: str) -> Path:
        """Where the library keeps a file's bytes."""
        file = self.files[name]
        return self._cache / "blobs" / str(file.lfs.sha256 if file.lfs else file.blob_id)

    def _downloaded(self, name: str) -> Path:
        """Download a file; where a transfer breaks off, take it up again where it stopped."""
        from huggingface_hub import hf_hub_download

        tries, reached = _TRIES, 0
        while True:
            try:
                return Path(hf_hub_download(self.repo, name, revision=self.commit))
            except (OSError, RuntimeError) as error:  # RuntimeError: hf_xet's only one
                if not _broken_off(error):
                    raise
                arrived = self._arrived(name)
                tries = _TRIES if arrived > reached else tries - 1
                reached = max(arrived, reached)
                if not tries:
                    msg = (
                        f"fetching {name} of {self.repo} broke off ({type(error).__name__}) at "
                        f"{shown_bytes(arrived)} of {shown_bytes(self.size(name))}.\n"
                        "Run this again: it goes on where it stopped."
                    )
                    raise HubError(msg) from error
            time.sleep(_PAUSE_S)

    def _arrived(self, name: str) -> int:
        """Bytes of a file that is being downloaded; one that is written anywhere is sparse."""
        blob = self._blob(name)
        partial = blob.with_name(f"{blob.name}.incomplete")
        try:
            state = partial.stat()
        except FileNotFoundError:
            return 0
        return min(state.st_size, state.st_blocks * 512)

    def _tell(self, arrived: int) -> None:
        if self._total:
            done = min(self._done + arrived, self._total)
            of = f"{shown_bytes(done)} of {shown_bytes(self._total)}"
            self._progress(f"fetching {self.repo}: {of}", done / self._total)

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """Tell how far the whole transfer is while one file comes.

        By looking at the growing file, because this release of the library shows the bytes of a
        download to nobody but its own progress bar.
        """
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(_TELL_EVERY_S):
                self._tell(self._arrived(name))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()

    def _whole(self, path: Path, name: str) -> bool:
        """Whether bytes are those that the Hub lists: the library compares sizes only."""
        file = self.files[name]
        if file.lfs:
            return sha256_file(path) == file.lfs.sha256
        return file.blob_id is None or git_sha1(path.read_bytes()) == file.blob_id


def _broken_off(error: BaseException) -> bool:
    """Whether a transfer that had begun was cut, and trying again may go on."""
    root = root_of(error)
    if isinstance(root, Silence):
        return False
    return not exhausted(error) and root is error and not local(error) and not status_of(error)


def local(error: BaseException) -> bool:
    """Whether the trouble is this machine's: the network's errors carry no number."""
    return getattr(error, "errno", None) is not None


def listed(repo: str, asked: str, progress: Progress) -> Transfer:
    """Ask the Hub which commit a revision is, and what files it holds."""
    from huggingface_hub import HfApi, constants

    info = HfApi().model_info(
        repo, revision=asked, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    files = {file.rfilename: file for file in info.siblings or ()}
    return Transfer(repo, info.sha or asked, files, progress)
