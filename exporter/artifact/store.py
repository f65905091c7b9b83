"""Artifacts on disk: staged, sealed by a manifest, renamed into place, never edited.

Does not import torch, so that verifying, listing and pushing start at once. The manifest is written
last and names every file with size and sha256; the artifact's digest is the sha256 of the manifest.
"""

import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import Timeout

from exporter.artifact.manifest import MANIFEST, File, Manifest
from exporter.errors import BusyError, IntegrityError, RecipeError, listed
from exporter.system.files import (
    file_lock,
    make_folder,
    partial_name,
    partial_of,
    read_small,
    remove,
    replace_dir_atomically,
    require_utf8,
    sha256_file,
    write_atomic,
)
from exporter.system.signals import undisturbed

# Sidecar files are written after sealing and are outside the digest.
_BESIDE = "report.json report.html predictions.jsonl README.md wer.svg places.json "
_SIGNED = "provenance.intoto.json model.sig report.sig"
SIDECAR_FILES = frozenset({MANIFEST, *(_BESIDE + _SIGNED).split()})
# The partial file of a sidecar during `write_atomic`, or of a killed process.
_BEING_WRITTEN = re.compile(partial_name(f"({'|'.join(map(re.escape, sorted(SIDECAR_FILES)))})"))
MAX_MANIFEST_BYTES = 4 << 20


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest without checking its files.

    Args:
        folder: The artifact.

    Returns:
        The manifest, whose canonical form equals the file byte for byte.

    Raises:
        IntegrityError: There is no manifest, or it is damaged or was edited.
        RecipeError: The folder's path is not UTF-8.
    """
    require_utf8(folder, RecipeError)
    path = folder / MANIFEST
    try:
        require_plain(path)
        sealed = read_small(
            path, MAX_MANIFEST_BYTES, IntegrityError, "a manifest of ours", follow_links=False
        )
        manifest = Manifest.model_validate_json(sealed)
        canonical = manifest.canonical()
    except FileNotFoundError:
        msg = (
            f"{folder} is not an artifact: it has no {MANIFEST}.\nBuild one: exporter build RECIPE"
        )
        raise IntegrityError(msg) from None
    except (
        ValueError,
        OSError,
    ) as error:  # pydantic's errors are ValueErrors; a NaN raises a plain one
        reason = str(error).splitlines()[0]
        msg = f"{path} cannot be read ({reason}): build it again with --force"
        raise IntegrityError(msg) from error
    if canonical != sealed:
        msg = f"{path} was edited after the build: build it again with --force"
        raise IntegrityError(msg)
    return manifest


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
    while True:
        manifest = read_manifest(folder)
        try:
            _require_whole(folder, manifest)
        except IntegrityError:
            if read_manifest(folder) == manifest:
                raise
        else:
            return manifest


def require_same(folder: Path, manifest: Manifest) -> None:
    """Raise BusyError if the verified artifact was replaced by another one."""
    if read_manifest(folder) != manifest:
        msg = f"{folder} was replaced meanwhile: run the command again"
        raise BusyError(msg)


def _require_whole(folder: Path, manifest: Manifest) -> None:
    promised = {file.path for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in _walk(folder)}
    present = {name for name in present if not _BEING_WRITTEN.fullmatch(name)}
    _refuse(folder, "missing", promised - present)
    _refuse(folder, "not in the manifest", present - promised - SIDECAR_FILES)
    for file in manifest.files:
        path = folder / inside(file.path)
        try:
            require_plain(path)
            equal = path.stat().st_size == file.size_bytes and sha256_file(path) == file.sha256
        except FileNotFoundError:
            equal = False
        if not equal:
            msg = f"{path} does not match the manifest: build it again with --force"
            raise IntegrityError(msg)


def find(path: Path) -> list[Path]:
    """Return the artifact at `path`, or the artifacts one level below it, sorted by name."""
    if (path / MANIFEST).exists() or not path.is_dir():
        return [path]
    return sorted(
        inner.parent for inner in path.glob(f"*/{MANIFEST}") if inner.parent.name[0] != "."
    )


@contextmanager
def stage(final: Path) -> Iterator[Path]:
    """Yield a new folder beside `final` to build into, and remove it if it was not published.

    Holds a lock, so that a second build of the same artifact fails at once. Staged folders of
    killed builds are removed.

    Args:
        final: Where the artifact will be.

    Raises:
        BusyError: Another build holds the lock.
    """
    make_folder(final.parent)
    with _lock(final):
        for stale in final.parent.iterdir():
            if stale.name.startswith(f".{final.name}.partial-"):
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
    files = []
    for path in sorted(_walk(folder)):
        relative = path.relative_to(folder).as_posix()
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
    lock = file_lock(final.parent / f".{final.name}.lock", wait_s=0)
    try:
        held = lock.acquire()
    except Timeout:
        msg = f"another build is writing {final}: wait for it, or choose another --output"
        raise BusyError(msg) from None
    with held:
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


def _refuse(folder: Path, why: str, names: set[str]) -> None:
    if names:
        msg = (
            f"{folder}: {len(names)} file(s) {why}: {listed(names)}.\nBuild it again with --force."
        )
        raise IntegrityError(msg)
