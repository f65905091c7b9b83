"""Download files of one commit into huggingface_hub's cache, with progress and hashes.

huggingface_hub downloads, and its environment variables (HF_TOKEN, HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE) are the settings. This module adds what it lacks: bytes reported to our
`Progress`, time limits and retries, large files that go on where they stopped, and a check of the
hashes of what arrived.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exporter.errors import CheckpointError, ExporterError, HubError, IntegrityError
from exporter.hub import replies
from exporter.hub.client import digest_tag, git_sha1, named_digest, with_retries
from exporter.hub.errors import explained, interrupted, kind_of
from exporter.system.files import make_folder, sha256_file, write_atomic
from exporter.system.progress import Progress, shown_bytes, silent

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_REPORT_EVERY_S = 0.25
_LOOKS = 2
# Small files are fetched before anything else is known of a repository.
_TEXTS = (".json", ".jsonl", ".txt", ".md", ".html", ".svg", ".yaml", ".sig")
_MAX_TEXT_BYTES = 256 << 20
# Smaller files begin anew after an interruption, which saves them a request.
_LARGE_BYTES = 10 << 20
_COMMIT = re.compile("[0-9a-f]{40}")


def list_repository(
    repo: str,
    revision: str | None,
    progress: Progress,
    *,
    repo_type: str = "model",
    pauses: Sequence[float] | None = None,
) -> "Transfer":
    """Ask the Hub which commit a revision is, and what files it holds.

    Args:
        repo: `ORG/NAME`.
        revision: A branch, tag or commit; `main` if None. Of a digest (`sha256-HEX`), the tag.
        progress: Receives attempts, and later bytes.
        repo_type: `model` or `dataset`.
        pauses: Seconds between attempts, as in `with_retries`.

    Returns:
        The commit's files, none of them downloaded yet.

    Raises:
        HubError: The Hub refused, or could not be reached.
        IntegrityError: Its list has names or hashes that cannot be paths, or is another commit's.
    """
    from huggingface_hub import HfApi, constants

    digest = named_digest(revision)
    # A longer digest than that of the tag is compared by the caller.
    wanted = digest_tag(digest) if digest else revision or "main"

    def ask() -> Any:
        return HfApi().repo_info(
            repo,
            revision=wanted,
            repo_type=repo_type,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )

    def explain(root: BaseException) -> ExporterError:
        return explained(root, repo, wanted, repo_type)

    info = with_retries(ask, progress, repo, explain, pauses=pauses)
    replies.require_plain_list(repo, info)
    if _COMMIT.fullmatch(wanted) and info.sha != wanted:
        msg = f"{repo}: the Hub answers for {wanted} with another commit, {info.sha}"
        raise IntegrityError(msg)
    files = {file.rfilename: file for file in info.siblings or ()}
    return Transfer(repo, info.sha, files, progress, repo_type)


def cached_snapshot(repo: str, revision: str) -> Path | None:
    """Return the folder of a cached revision, complete or not; None if nothing is cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def remote_header(repo: str, commit: str, name: str) -> Any:
    """Read the header of a safetensors file that stays on the Hub.

    Args:
        repo: `ORG/NAME` of a model.
        commit: The commit that holds the file.
        name: The file's path in the repository.

    Returns:
        The library's `SafetensorsFileMetadata`.

    Raises:
        HubError: The Hub refused, or could not be reached.
        CheckpointError: The header is damaged.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    def ask() -> Any:
        return HfApi().parse_safetensors_file_metadata(repo, name, revision=commit)

    try:
        return with_retries(ask, silent, repo, lambda root: explained(root, repo, commit))
    except SafetensorsParsingError as error:
        msg = f"{repo}: the header of {name} makes no sense: it is damaged"
        raise CheckpointError(msg) from error


class Transfer:
    """The download of one commit's files into the cache, with its progress."""

    def __init__(
        self,
        repo: str,
        commit: str,
        files: "Mapping[str, RepoSibling]",
        progress: Progress,
        repo_type: str = "model",
    ) -> None:
        """Store the files of `commit` by name, as the Hub lists them; no request is sent."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        self.repo, self.commit, self.files = repo, commit, files
        self._progress, self._type = progress, repo_type
        folder = repo_folder_name(repo_id=repo, repo_type=repo_type)
        self._cache = Path(constants.HF_HUB_CACHE, folder)
        self._locks = Path(constants.HF_HUB_CACHE, ".locks", folder)
        self._done = self._total = 0

    def size(self, name: str) -> int:
        """Return a file's size in bytes, as the Hub lists it."""
        return self.files[name].size or 0

    def here(self, name: str) -> bool:
        """Return True if a file's bytes are in the cache."""
        return self._blob(name).exists()

    def announce(self, names: list[str]) -> None:
        """Set the total of the progress: the bytes of those of `names` that are not cached."""
        self._total = sum(self.size(name) for name in names if not self.here(name))

    def bring(self, name: str) -> Path:
        """Download one file into the cache unless it is there, and return its path.

        An interrupted download of a large file continues where it stopped. A file whose hash is
        wrong is downloaded once more.

        Raises:
            HubError: The Hub refused or could not be reached, or the file arrived damaged twice.
            IntegrityError: Headers name other bytes than the Hub's list.
        """
        if name.endswith(_TEXTS) and self.size(name) > _MAX_TEXT_BYTES:
            msg = (
                f"{self.repo} lists {name} with {shown_bytes(self.size(name))}: "
                "no file of its kind is so large.\nNothing of it was fetched."
            )
            raise HubError(msg)
        fresh = not self.here(name)
        for _ in range(_LOOKS):
            with self._watched(name):
                path = self._download(name)
            if not fresh or self._whole(path, name):
                break
            path.unlink()  # a link to the other, where the cache has links
            self._blob(name).unlink(missing_ok=True)
        else:
            msg = (
                f"{name} of {self.repo} arrived damaged twice (its hash differs).\nRun this again."
            )
            raise HubError(msg)
        if fresh:
            self._done += self.size(name)
            self._report(0)
        return path

    def note_revision(self, revision: str) -> None:
        """Record in the cache which commit a branch or tag is, as the library does."""
        if revision != self.commit:
            note = self._cache / "refs" / revision
            make_folder(note.parent)
            write_atomic(note, self.commit.encode())

    def forget_damaged(self, name: str) -> None:
        """Remove a file from the cache if its hash is wrong, so that it is downloaded again."""
        if self.here(name) and not self._whole(self._blob(name), name):
            self._blob(name).unlink()

    def _blob(self, name: str) -> Path:
        """Return the path of a file's bytes in the library's cache."""
        return self._cache / "blobs" / self._listed(name).blob

    def _listed(self, name: str) -> replies.Listed:
        return replies.listed(self.files[name], self.commit)

    def _download(self, name: str) -> Path:
        with replies.expecting(self._listed(name)):
            return with_retries(
                lambda: self._fetch(name),
                self._progress,
                f"{self.repo}: {name}",
                lambda root: self._explained(name, root),
                received=lambda: self._arrived(name),
            )

    def _fetch(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        if self.size(name) >= _LARGE_BYTES and not self.here(name):
            self._fill(name)
        where: dict[str, Any] = {"repo_type": self._type, "revision": self.commit}
        return Path(hf_hub_download(self.repo, name, **where))

    def _fill(self, name: str) -> None:
        """Download a file's bytes into the cache, after those that an interrupted download left.

        `hf_hub_download` of newer releases removes what an interruption leaves. Name and lock of
        the partial file are those of older ones.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            WeakFileLock,
            build_hf_headers,
        )

        address = hf_hub_url(self.repo, name, repo_type=self._type, revision=self.commit)
        place = str(get_hf_file_metadata(address).location)
        headers = build_hf_headers()
        if urlsplit(place).netloc != urlsplit(address).netloc:
            headers.pop("authorization", None)
        partial, size = self._partial(name), self.size(name)
        make_folder(partial.parent)
        make_folder(self._locks)
        with WeakFileLock(self._locks / f"{self._blob(name).name}.lock"):
            if self.here(name):  # another process was faster
                return
            with partial.open("ab") as file:
                if file.tell() > size:
                    file.truncate(0)
                    file.seek(0)
                http_get(place, file, resume_size=file.tell(), headers=headers, expected_size=size)
            partial.rename(self._blob(name))

    def _explained(self, name: str, error: BaseException) -> ExporterError:
        if not interrupted(error):
            return explained(error, self.repo, self.commit, self._type)
        what = f"fetching {name} of {self.repo} broke off ({kind_of(error)})"
        arrived = self._arrived(name)
        if not arrived:
            return HubError(f"{what}.\nRun this again.")
        return HubError(
            f"{what} at {shown_bytes(arrived)} of {shown_bytes(self.size(name))}.\n"
            "Run this again: it goes on where it stopped."
        )

    def _partial(self, name: str) -> Path:
        """Return the path of a large file's bytes while it is downloaded."""
        blob = self._blob(name)
        return blob.with_name(f"{blob.name}.incomplete")

    def _arrived(self, name: str) -> int:
        """Return the bytes that have arrived of a large file; 0 for others."""
        try:
            return self._partial(name).stat().st_size
        except FileNotFoundError:
            return 0

    def _report(self, arrived: int) -> None:
        if self._total:
            done = min(self._done + arrived, self._total)
            of = f"{shown_bytes(done)} of {shown_bytes(self._total)}"
            self._progress(f"fetching {self.repo}: {of}", done / self._total)

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """Report the progress of the whole transfer while one file is downloaded.

        The size of the growing file is polled, because the library reports the bytes of a download
        only to its own progress bar.
        """
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(_REPORT_EVERY_S):
                self._report(self._arrived(name))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()

    def _whole(self, path: Path, name: str) -> bool:
        """Return True if a file has the Hub's hash; the library compares sizes only."""
        file = self.files[name]
        if file.lfs:
            return sha256_file(path) == file.lfs.sha256
        return git_sha1(path.read_bytes()) == file.blob_id
