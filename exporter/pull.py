"""Pulling artifacts from the Hub: into a sealed folder like a built one, every byte verified first.

The library does not hash what it downloads. So files come into its cache, are copied aside, held
against the manifest they came with, and only then renamed to where they can be opened.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import artifact, cache, card, report
from exporter.artifact import MANIFEST, Manifest
from exporter.errors import HubError, IntegrityError, RecipeError, exhausted
from exporter.fetch import listed
from exporter.hub_client import git_sha1, hub_id
from exporter.hub_errors import explained, unavailable
from exporter.progress import Progress, silent
from exporter.provenance import PROVENANCE
from exporter.signature import SIGNATURE, VERDICT
from exporter.transfer import Transfer, local

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# What may come along, outside the digest.
_SIGNED = (PROVENANCE, SIGNATURE, VERDICT)
_COMPANY = (report.REPORT, report.PAGE, report.PREDICTIONS, card.CARD, card.PICTURE, *_SIGNED)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """An artifact from the Hub, verified; `fresh` is False where it stood there already."""

    path: Path
    repo: str
    commit: str
    manifest: Manifest
    fresh: bool


def pull(name: str, output: Path, progress: Progress = silent, *, force: bool = False) -> Pulled:
    """Have `ORG/NAME` or `ORG/NAME@REVISION` at OUTPUT/ORG/NAME, as the Hub has it now.

    Another artifact in its place is an error unless `force`. Raises HubError, and IntegrityError
    where the repository holds no whole artifact.
    """
    named = hub_id(name)
    if named is None:
        msg = f"{name!r} is no Hub id: give one like ORG/NAME, or ORG/NAME@REVISION"
        raise RecipeError(msg)
    return _pulled(*named, output / named[0], progress, replace=force)


def located(path: Path | str, progress: Progress = silent) -> Path:
    """The folder of an artifact that is given as a folder, or by a name of the Hub: see `opened`.

    A name is the Hub's if nothing lies there, nor in what would be its first folder.
    """
    place = Path(path)
    here = place.exists() or any(Path(first).exists() for first in place.parts[:1])
    return place if here or hub_id(str(path)) is None else opened(str(path), progress)


def opened(name: str, progress: Progress = silent) -> Path:
    """The folder of a Hub's artifact in this machine's cache, fetched or renewed where needed.

    Where the Hub cannot be asked, what was pulled before is used.
    """
    repo, revision = hub_id(name) or (name, None)
    place = cache.pulled() / repo / (revision or "main").replace("/", "--")
    try:
        return _pulled(repo, revision, place, progress, replace=True).path
    except HubError as error:
        if not (place / MANIFEST).exists() or not unavailable(error.__cause__ or error):
            raise
        _log.warning("the Hub cannot be asked: using %s as it was pulled", name)
        return place


def _pulled(
    repo: str, revision: str | None, final: Path, progress: Progress, *, replace: bool
) -> Pulled:
    transfer = _asked(repo, revision, progress)
    if MANIFEST not in transfer.files:
        msg = f"{repo} holds no artifact: it has no {MANIFEST}"
        raise IntegrityError(msg)
    standing = _standing(final, transfer.files, replace=replace)
    if standing is not None:
        return Pulled(final, repo, transfer.commit, standing, fresh=False)
    if final.exists() and not replace:
        msg = f"{final} holds something else: replace it with --force, or choose another --output"
        raise RecipeError(msg)
    try:
        with artifact.stage(final) as folder:
            manifest = _brought(transfer, folder)
            artifact.publish(folder, final)
    except OSError as error:
        if exhausted(error) or local(error):
            raise
        raise explained(error, repo, transfer.commit) from error
    return Pulled(final, repo, transfer.commit, manifest, fresh=True)


def _asked(repo: str, revision: str | None, progress: Progress) -> Transfer:
    """What a revision holds; a name that the Hub would not even look up is refused as such."""
    from huggingface_hub.errors import HFValidationError

    try:
        return listed(repo, revision or "main", progress)
    except (OSError, HFValidationError) as error:
        if exhausted(error) or local(error):
            raise
        raise explained(error, repo, revision or "main") from error


def _standing(final: Path, files: "Mapping[str, RepoSibling]", *, replace: bool) -> Manifest | None:
    """The artifact that stands in place, if it is the Hub's; a damaged one may be replaced.

    One that was signed anew is another: its signature must fit what it came with.
    """
    named = (MANIFEST, *(name for name in _SIGNED if name in files))
    if not all(_same(final / name, files[name]) for name in named):
        return None
    try:
        return artifact.verify(final)
    except IntegrityError:
        if not replace:
            raise
        return None


def _same(path: Path, there: "RepoSibling") -> bool:
    return path.is_file() and git_sha1(path.read_bytes()) == there.blob_id


def _brought(transfer: Transfer, folder: Path) -> Manifest:
    """Bring an artifact's files into a folder, and verify them there."""
    shutil.copyfile(transfer.bring(MANIFEST), folder / MANIFEST)
    manifest = artifact.read_manifest(folder)
    _require_whole(manifest, transfer)
    names = [file.path for file in manifest.files]
    names += [name for name in _COMPANY if name in transfer.files]
    transfer.announce(names)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(transfer.bring(name), folder / name)
    return artifact.verify(folder)


def _require_whole(manifest: Manifest, transfer: Transfer) -> None:
    """Refuse, before gigabytes move, what the Hub's own list shows not to fit the manifest."""
    for file in manifest.files:
        artifact.inside(file.path)
        there = transfer.files.get(file.path)
        known = there.lfs.sha256 if there and there.lfs else file.sha256
        if there is None or there.size != file.size_bytes or known != file.sha256:
            what = "lacks" if there is None else "holds another"
            msg = f"{transfer.repo} at {transfer.commit[:12]} {what} {file.path}: it is no artifact"
            raise IntegrityError(msg)
