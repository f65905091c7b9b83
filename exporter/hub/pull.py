"""Pull artifacts from the Hub: every byte is verified before the folder is visible.

The library does not hash what it downloads. So files are downloaded into its cache, copied to a
staged folder, compared with the manifest, and only then renamed to their final place.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact import report, signing, store
from exporter.artifact import trust as trusted
from exporter.artifact.manifest import MANIFEST, Manifest
from exporter.artifact.provenance import PROVENANCE
from exporter.artifact.signing import SIGNATURE
from exporter.errors import HubError, IntegrityError, RecipeError, TrustError
from exporter.hub import model_card
from exporter.hub.client import git_sha1, hub_id, require_digest
from exporter.hub.download import Transfer, list_repository
from exporter.hub.errors import unavailable
from exporter.system import user_dirs
from exporter.system.build_cache import Entry
from exporter.system.files import make_folder, require_no_link
from exporter.system.progress import Progress, silent
from exporter.system.text import listed as listed_names
from exporter.system.user_dirs import pulled

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# Files outside the digest that are pulled too.
_SIGNED = (PROVENANCE, *store.SIGNATURES)
_COMPANY = (
    report.REPORT,
    report.PAGE,
    report.PREDICTIONS,
    model_card.CARD,
    model_card.PICTURE,
    *_SIGNED,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """A verified artifact from the Hub; `fresh` is False if it was in its place already."""

    path: Path
    repo: str
    commit: str
    manifest: Manifest
    fresh: bool


def pull(name: str, output: Path, progress: Progress = silent, *, force: bool = False) -> Pulled:
    """Fetch an artifact to OUTPUT/ORG/NAME, as the Hub has it now, and verify it.

    Args:
        name: `ORG/NAME` or `ORG/NAME@REVISION`.
        output: The folder that gets ORG/NAME.
        progress: Receives attempts and bytes.
        force: Replace another artifact in the same place.

    Returns:
        The artifact, its commit and manifest.

    Raises:
        RecipeError: `name` is no id, or something else is in the artifact's place.
        HubError: The Hub refused, or could not be reached.
        IntegrityError: The repository holds no complete artifact, or not the one whose digest the
            revision names.
    """
    named = hub_id(name)
    if named is None:
        msg = f"{name!r} is not a Hub id: give one like ORG/NAME, or ORG/NAME@REVISION"
        raise RecipeError(msg)
    final = output / named[0]
    require_no_link(final, output)
    wanted = _Wanted(*named, final, output, replace=force, admit=_warn_of_code)
    return wanted.had(progress)


def fetch_to_cache(name: str, progress: Progress = silent, *, trust: bool = False) -> Path:
    """Return the folder of a Hub's artifact in this machine's cache, updated if it changed.

    If the Hub cannot be reached, the cached artifact is used.

    Args:
        name: `ORG/NAME` or `ORG/NAME@REVISION`.
        progress: Receives attempts and bytes.
        trust: Download code that was not built here.

    Raises:
        HubError: The Hub refused, or could not be reached and nothing is cached.
        IntegrityError: The repository holds no complete artifact, or not the one whose digest the
            revision names.
        TrustError: The artifact has code that was not built here; only its manifest and signature
            were downloaded.
    """
    repo, revision = hub_id(name) or (name, None)
    place = user_dirs.pulled() / repo / (revision or "main").replace("/", "--")
    _require_own_cache(place)
    cached = (place / MANIFEST).exists()

    def admit(folder: Path, manifest: Manifest) -> None:
        trusted.check_trust_before_download(name, folder, manifest, trust=trust)

    wanted = _Wanted(repo, revision, place, user_dirs.pulled(), replace=True, admit=admit)
    try:
        had = wanted.had(progress, pauses=() if cached else None)
        if had.fresh:
            had.path.chmod(0o700)
        return had.path
    except HubError as error:
        if not cached or not unavailable(error.__cause__ or error):
            raise
        require_digest(repo, revision, store.read_manifest(place).digest)
        _log.warning("the Hub cannot be reached: using the cached %s", name)
        return place


def _require_own_cache(place: Path) -> None:
    """Raise TrustError if somebody else could change a cached artifact.

    Its bytes are verified when it is opened, but would be read again afterwards.
    """
    make_folder(place.parent, 0o700)
    require_no_link(place, user_dirs.pulled())
    if not all(user_dirs.owned(each) for each in (place.parent, place) if each.exists()):
        msg = (
            f"{place}: others can change what is cached there, so that it is not used.\n"
            f"Remove {user_dirs.pulled()}, or set EXPORTER_CACHE to a folder of your own."
        )
        raise TrustError(msg)


@dataclass(frozen=True)
class _Wanted:
    """A revision of an artifact to pull to `final`; `admit` may refuse it by its manifest.

    `named` is the folder above it that the user named.
    """

    repo: str
    revision: str | None
    final: Path
    named: Path
    replace: bool
    admit: Callable[[Path, Manifest], None]

    def had(self, progress: Progress, pauses: Sequence[float] | None = None) -> Pulled:
        """Pull it unless it is there; `pauses` are those between attempts to reach the Hub."""
        transfer = list_repository(self.repo, self.revision, progress, pauses=pauses)
        if MANIFEST not in transfer.files:
            msg = f"{self.repo} holds no artifact: it has no {MANIFEST}"
            raise IntegrityError(msg)
        existing = _existing(self.final, transfer.files, replace=self.replace)
        if existing is not None:
            require_digest(self.repo, self.revision, existing.digest)
            return Pulled(self.final, self.repo, transfer.commit, existing, fresh=False)
        if self.final.exists() and not self.replace:
            msg = f"{self.final} holds something else: replace it with --force, or choose another"
            raise RecipeError(msg + " --output")
        with store.stage(self.final, self.named) as folder:
            manifest = _announced(transfer, folder)
            require_digest(self.repo, self.revision, manifest.digest)
            self.admit(folder, manifest)
            _bring(manifest, transfer, folder)
            store.publish(folder, self.final)
        return Pulled(self.final, self.repo, transfer.commit, manifest, fresh=True)


def _warn_of_code(folder: Path, manifest: Manifest) -> None:
    """Log a warning, before the download, that loading the artifact will need `--trust`."""
    try:
        trusted.check_trust_before_download(manifest.name, folder, manifest, trust=False)
    except TrustError:
        names = listed_names(trusted.code(manifest))
        _log.warning(
            "it holds native code that was not built here (%s): loading needs --trust", names
        )


def _existing(final: Path, files: "Mapping[str, RepoSibling]", *, replace: bool) -> Manifest | None:
    """Return the manifest of the artifact at `final` if it is the Hub's, else None.

    Its manifest, signatures and provenance are compared. A damaged artifact counts as another one
    with `replace`, and raises IntegrityError without.
    """
    named = (MANIFEST, *(name for name in _SIGNED if name in files))
    if not all(_same(final / name, files[name]) for name in named):
        return None
    try:
        return store.verify(final)
    except IntegrityError:
        if not replace:
            raise
        return None


def _same(path: Path, there: "RepoSibling") -> bool:
    if not path.is_file() or path.stat().st_size != there.size:
        return False
    return git_sha1(path.read_bytes()) == there.blob_id


def _announced(transfer: Transfer, folder: Path) -> Manifest:
    """Download the manifest and the signature; compare the manifest with the Hub's file list."""
    for name in {MANIFEST, SIGNATURE} & transfer.files.keys():
        _copy(transfer, name, folder)
    manifest = store.read_manifest(folder)
    _require_whole(manifest, transfer)
    return manifest


def _bring(manifest: Manifest, transfer: Transfer, folder: Path) -> None:
    """Download an artifact's files into a folder, and verify them there."""
    names = [file.path for file in manifest.files]
    names += [name for name in _COMPANY if name in transfer.files]
    transfer.announce(names)
    for name in names:
        _copy(transfer, name, folder)
    _require_unforged(store.verify(folder), transfer, folder)


def _require_unforged(manifest: Manifest, transfer: Transfer, folder: Path) -> None:
    """Raise IntegrityError if a signature in a repository is not of what is there."""
    try:
        signing.require_unforged(folder, manifest)
    except IntegrityError as error:
        reason = str(error).splitlines()[0].replace(f"{folder}/", "")
        msg = (
            f"{transfer.repo} at {transfer.commit[:12]}: {reason.rstrip('.')}.\n"
            "Ask its publisher: what was signed is not what is there."
        )
        raise IntegrityError(msg) from error


def _copy(transfer: Transfer, name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    transfer.forget_damaged(name)
    shutil.copyfile(transfer.bring(name), folder / name)


def _require_whole(manifest: Manifest, transfer: Transfer) -> None:
    """Raise IntegrityError, before the download, if the Hub's list contradicts the manifest."""
    for file in manifest.files:
        store.inside(file.path)
        there = transfer.files.get(file.path)
        known = there.lfs.sha256 if there and there.lfs else file.sha256
        if there is None or there.size != file.size_bytes or known != file.sha256:
            what = "lacks" if there is None else "holds another"
            msg = f"{transfer.repo} at {transfer.commit[:12]} {what} {file.path}: it is no artifact"
            raise IntegrityError(msg)


def entries() -> list[Entry]:
    """Return the artifacts that were opened by their Hub ids, oldest first."""
    pulled_entries = (_entry(path.parent) for path in pulled().glob(f"*/*/*/{MANIFEST}"))
    return sorted(pulled_entries, key=lambda entry: entry.made)


def clear() -> int:
    """Remove the artifacts that `entries` lists; return their bytes."""
    freed = sum(entry.size_bytes for entry in entries())
    shutil.rmtree(pulled(), ignore_errors=True)
    return freed


def _entry(folder: Path) -> Entry:
    what = f"{folder.parent.relative_to(pulled())} at {folder.name}, pulled"
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    return Entry(folder, what, size, (folder / MANIFEST).stat().st_mtime)
