"""Artifacts on disk: staged, sealed by a manifest, renamed into place, never edited.

Does not import torch, so that verifying, listing and pushing start at once, and pydantic only for
who needs the whole manifest. The manifest is written last and names every file with size and
sha256; the artifact's digest is the sha256 of the manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import TYPE_CHECKING, TypeAlias, TypeVar, Union

from exporter.artifact.lookup import find, not_an_artifact
from exporter.errors import BusyError, IntegrityError, RecipeError
from exporter.runtime.manifest import MANIFEST, EditedError, SealedFile, SealedManifest, parse
from exporter.system.files import (
    FileLock,
    make_folder,
    partial_name,
    partial_of,
    read_small,
    remove,
    replace_dir_atomically,
    require_no_link,
    require_utf8,
    sha256_file,
    write_atomic,
)
from exporter.system.signals import undisturbed
from exporter.system.text import listed

if TYPE_CHECKING:
    from exporter.artifact.manifest import File, Manifest

AnyManifest: TypeAlias = Union["Manifest", SealedManifest]
_Read = TypeVar("_Read", "Manifest", SealedManifest)

# Sidecar files are written after sealing and are outside the digest.
_BESIDE = "report.json report.html predictions.jsonl README.md wer.svg places.json"
SIGNATURES = ("model.sig", "report.sig")
SIDECAR_FILES = frozenset({MANIFEST, *_BESIDE.split(), "provenance.intoto.json", *SIGNATURES})
# The partial file of a sidecar during `write_atomic`, or of a killed process.
_BEING_WRITTEN = re.compile(partial_name(f"({'|'.join(map(re.escape, sorted(SIDECAR_FILES)))})"))
MAX_MANIFEST_BYTES = 4 << 20
_MAX_GRAPH_BYTES = 256 << 20
# What file managers, git, notebooks and network disks leave in folders; in small letters.
_IGNORED_FILES = frozenset(
    {
        *(".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory"),
        *(".gitattributes", ".gitignore", ".gitkeep"),
    }
)
_IGNORED_STARTS = ("._", ".nfs", ".fuse_hidden")
_IGNORED_FOLDERS = frozenset({".git", ".ipynb_checkpoints", "__macosx", "@eadir"})
_HUB_CACHE = (".cache", "huggingface")
_AGAIN = "Build it again with --force."
_SHOWN = 3


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest without checking its files.

    Args:
        folder: The artifact.

    Returns:
        The manifest, whose canonical form equals the file byte for byte.

    Raises:
        IntegrityError: There is no manifest, or it is damaged or was edited.
        RecipeError: The folder is something else, such as a folder of artifacts, or its path is
            not UTF-8.
    """
    return _read(folder, whole)


def read_sealed(folder: Path) -> SealedManifest:
    """Read what opening needs of a manifest; raises as `read_manifest`."""
    return _read(folder, parse)


def find_built_for(device: str | None, path: Path) -> list[Path]:
    """Return the artifact at a path, or those one level below it that are built for a device.

    Args:
        device: A kind of device; None finds all.
        path: An artifact, or a folder of artifacts.

    Raises:
        RecipeError: The artifact, or every one, is built for another device; or as `lookup.find`.
        IntegrityError: There is no artifact, or the manifest of one is damaged.
    """
    found = find(path)
    if device is None:
        return found
    built_for = {each: read_sealed(each).needs.device for each in found}
    if chosen := [each for each in found if built_for[each] == device]:
        return chosen
    others = " and ".join(dict.fromkeys(repr(other)[:60] for other in built_for.values()))
    msg = f"--device {device}: {path} was built for {others}"
    raise RecipeError(msg)


def whole(content: bytes) -> Manifest:
    """Return the manifest of the bytes of its file.

    Raises:
        EditedError: They are another form of what they say.
        ValueError: They are no manifest.
    """
    from exporter.artifact.manifest import Manifest

    manifest = Manifest.model_validate_json(content, strict=True)
    if manifest.canonical() != content:  # which raises a ValueError for a NaN
        msg = "it is not as a build writes it"
        raise EditedError(msg)
    return manifest


def _read(folder: Path, parsed: Callable[[bytes], _Read]) -> _Read:
    require_utf8(folder, RecipeError)
    path = folder / MANIFEST
    try:
        require_plain(path)
        content = read_small(
            path, MAX_MANIFEST_BYTES, IntegrityError, "a manifest of ours", follow_links=False
        )
        return parsed(content)
    except (FileNotFoundError, NotADirectoryError):
        raise not_an_artifact(folder) from None
    except EditedError as error:
        msg = f"{path} was edited after the build: build it again with --force"
        raise IntegrityError(msg) from error
    except (ValueError, OSError) as error:  # pydantic's errors are ValueErrors
        reason = str(error).splitlines()[0]
        msg = f"{path} cannot be read ({reason}): build it again with --force"
        raise IntegrityError(msg) from error


def verify(folder: Path) -> Manifest:
    """Check that a folder holds the sealed files, byte for byte, and no others.

    An artifact that is replaced meanwhile is checked again.

    Args:
        folder: The artifact.

    Returns:
        The manifest that the files match.

    Raises:
        IntegrityError: A file is missing, added, changed, or not a regular file.
    """
    return _verified(folder, read_manifest)


def verify_sealed(folder: Path) -> SealedManifest:
    """Check the same, and return what opening needs of the manifest."""
    return _verified(folder, read_sealed)


def _verified(folder: Path, read: Callable[[Path], _Read]) -> _Read:
    while True:
        manifest = read(folder)
        try:
            require_files(folder, manifest)
            require_hashes(folder, manifest)
        except IntegrityError:
            if read(folder) == manifest:
                raise
        else:
            return manifest


def read_verified(folder: Path, file: File | SealedFile) -> bytes:
    """Read a program or a graph once, and check what was read.

    Who may write to an artifact can exchange a file between its check and its use. So loaders use
    these bytes, or a private copy of them. Weights are not code, and are mapped where they are.

    Args:
        folder: The artifact.
        file: One of its files.

    Returns:
        Its sealed bytes.

    Raises:
        IntegrityError: It is another file now, or larger than a graph without weights is.
    """
    path = folder / inside(file.path)
    try:
        require_plain(path)
        data = read_small(
            path, _MAX_GRAPH_BYTES, IntegrityError, "a graph of ours", follow_links=False
        )
    except (FileNotFoundError, NotADirectoryError):
        data = b""
    if hashlib.sha256(data).hexdigest() != file.sha256:
        msg = f"{path} was changed while the artifact was opened: build or fetch it again"
        raise IntegrityError(msg)
    return data


def is_signed(folder: Path) -> bool:
    """Return True if an artifact has a signature, valid or not."""
    return any(os.path.lexists(folder / name) for name in SIGNATURES)


def require_same(folder: Path, manifest: AnyManifest) -> None:
    """Raise BusyError if the verified artifact was replaced by another one."""
    if read_sealed(folder).digest != manifest.digest:
        msg = f"{folder} was replaced meanwhile: run the command again"
        raise BusyError(msg)


def require_files(folder: Path, manifest: AnyManifest) -> None:
    """Raise IntegrityError unless a folder has the sealed files in their sizes, and no others."""
    promised = {file.path for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in _walk(folder)}
    present = {name for name in present if not _BEING_WRITTEN.fullmatch(name)}
    if missing := promised - present:
        msg = f"{folder}: {len(missing)} file(s) missing: {listed(missing)}.\n{_AGAIN}"
        raise IntegrityError(msg)
    extra = {name for name in present - promised - SIDECAR_FILES if not is_ignored(name)}
    if extra:
        whose = f"{folder}: {len(extra)} file(s) not in the manifest: {listed(extra)}"
        msg = f"{whose}.\nRemove what does not belong there{_removal(folder, extra)}"
        raise IntegrityError(msg)
    for file in manifest.files:
        _require_equal(folder, file, None)


def require_hashes(
    folder: Path,
    manifest: AnyManifest,
    only: Collection[str] | None = None,
    digest: Callable[[Path], str] = sha256_file,
) -> None:
    """Raise IntegrityError unless the files that `require_files` checked have the sealed bytes.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        only: The paths to check; None: all.
        digest: Hashes a file: `sha256_file` or `sha256_mapped`.
    """
    files: list[File | SealedFile] = [*manifest.files]
    for file in sorted(files, key=lambda file: file.size_bytes, reverse=True):
        if only is None or file.path in only:
            _require_equal(folder, file, digest)


def _require_equal(
    folder: Path, file: File | SealedFile, digest: Callable[[Path], str] | None
) -> None:
    """Compare a file's size, and its bytes by a `digest`."""
    path = folder / inside(file.path)
    try:
        require_plain(path)
        equal = path.stat().st_size == file.size_bytes
        if equal and digest is not None:
            equal = digest(path) == file.sha256
    except (FileNotFoundError, ValueError):  # of a file that was cut before it was mapped
        equal = False
    if not equal:
        msg = f"{path} does not match the manifest: build it again with --force"
        raise IntegrityError(msg)


@contextmanager
def stage(final: Path, named: Path | None = None) -> Iterator[Path]:
    """Yield a new folder beside `final` to build into, and remove it if it was not published.

    Holds a lock, so that a second build of the same artifact fails at once. Staged folders of
    killed builds are removed.

    Args:
        final: Where the artifact will be.
        named: The folder above it that the user named, which may be a link; by default the one that
            holds it.

    Raises:
        BusyError: Another build holds the lock.
        IntegrityError: A link, or something that is no artifact, is at a name that is needed.
    """
    require_no_link(final, named or final.parent)
    if final.exists() and not final.is_dir():
        msg = f"{final} is no folder: move it, or choose another --output"
        raise IntegrityError(msg)
    make_folder(final.parent)
    stale_name = re.compile(partial_name(re.escape(final.name)))
    with _lock(final):
        for stale in final.parent.iterdir():
            if stale_name.fullmatch(stale.name):
                remove(stale)
        folder = partial_of(final)
        try:
            folder.mkdir()
            yield folder
        finally:
            with undisturbed():
                shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every staged file and write the manifest.

    Args:
        folder: The staged folder.
        manifest: The manifest without its list of files.

    Returns:
        The manifest as written.
    """
    from exporter.artifact.manifest import File

    files = []
    for path in sorted(_walk(folder)):
        relative = path.relative_to(folder).as_posix()
        if is_ignored(relative):
            continue
        files.append(File(path=relative, size_bytes=path.stat().st_size, sha256=sha256_file(path)))
    sealed = manifest.model_copy(update={"files": tuple(files)})
    write_atomic(folder / MANIFEST, sealed.canonical())
    return sealed


def publish(folder: Path, final: Path) -> None:
    """Move a sealed folder to its final place, in one step, under the lock of `stage`.

    Readers see the previous artifact or the new one.
    """
    replace_dir_atomically(folder, final)


@contextmanager
def _lock(final: Path) -> Iterator[None]:
    """Hold a lock beside `final`; raise BusyError if another build holds it."""
    place = final.parent / f".{final.name}.lock"
    if place.is_symlink() or (place.exists() and not place.is_file()):
        msg = f"{place} is no file of this program (a link, a pipe, a folder): remove it"
        raise IntegrityError(msg)
    lock = FileLock(place, wait=False)
    try:
        lock.acquire()
    except BlockingIOError:
        msg = f"another build is writing {final}: wait for it, or choose another --output"
        raise BusyError(msg) from None
    with lock:
        yield


def _walk(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`, including links, excluding folders."""
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def inside(path: str) -> PurePosixPath:
    """Return a manifest's path; raise IntegrityError if it leads outside the artifact."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path:
        msg = f"the manifest names {path!r}, which leads outside the artifact"
        raise IntegrityError(msg)
    return pure


def require_plain(path: Path) -> None:
    """Raise IntegrityError unless a path is a regular file with one name: no link, no pipe."""
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        kind = "a link" if path.is_symlink() or state.st_nlink != 1 else "not a file"
        msg = f"{path} is {kind}: an artifact has regular files only"
        raise IntegrityError(msg)


def is_ignored(name: str) -> bool:
    """Return whether a file beside an artifact's own is one that no loader reads.

    File managers, git and notebooks leave such files. They are not sealed, verified or pushed.

    Args:
        name: The POSIX path inside the artifact.
    """
    parts = PurePosixPath(name.lower()).parts
    below = parts[:-1] + parts[-1:] * (parts[-1] in _IGNORED_FOLDERS)  # a worktree's `.git`
    return (
        parts[-1] in _IGNORED_FILES
        or parts[-1].startswith(_IGNORED_STARTS)
        or any(part in _IGNORED_FOLDERS for part in below)
        or parts[:2] == _HUB_CACHE
    )


def _removal(folder: Path, names: set[str]) -> str:
    """Return a command that removes the first few files, if all names can be typed."""
    first = [str(folder / name) for name in sorted(names)[:_SHOWN]]
    if not all(name.isprintable() for name in first):
        return "."
    return ": " + " ".join(["rm", *map(quote, first)])
