"""Artifacts on disk: built aside, sealed by a manifest, renamed into place, never edited.

Kept without torch so that verifying, listing and pushing answer at once. The manifest is written
last and names every file with size and sha256; the artifact's digest is the sha256 of the manifest.
"""

import errno
import fcntl
import hashlib
import json
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from exporter.errors import BusyError, IntegrityError, listed
from exporter.system.files import (
    make_folder,
    partial_name,
    partial_of,
    put,
    recover,
    remove,
    write_atomic,
)
from exporter.system.signals import undisturbed

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
# Written after sealing, so outside the digest: the verdict on an artifact cannot be part of it.
_BESIDE = "report.json report.html predictions.jsonl README.md wer.svg places.json "
_SIGNED = "provenance.intoto.json model.sig report.sig"
ENVELOPE = frozenset({MANIFEST, *(_BESIDE + _SIGNED).split()})
# One of these half way through `write_atomic`, or left there by a process that died.
_BEING_WRITTEN = re.compile(partial_name(f"({'|'.join(map(re.escape, sorted(ENVELOPE)))})"))
_MAX_MANIFEST_BYTES = 4 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Frozen):
    """One sealed file: its POSIX path inside the artifact, its size and its hash."""

    path: str
    size_bytes: int
    sha256: str


class Origin(_Frozen):
    """The checkpoint an artifact was built from; `revision` is a commit of the Hub.

    `source` is a Hub id, or the name of a folder: manifests may be published, paths may not.
    """

    source: str
    revision: str | None
    sha256: str
    size_bytes: int
    parameters: int


class RecipeStamp(_Frozen):
    """The recipe an artifact was built by; `source` is the name of the file it was read from."""

    name: str
    sha256: str
    source: str


class Needs(_Frozen):
    """What a machine must offer to load an artifact."""

    cpu_features: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


class Choice(_Frozen):
    """What a build chose for one graph, and why: `seconds` of a call, by candidate.

    They are measured on models of so many `layers` each, and reckoned for `depth` of them. There
    are none where there was but one candidate.
    """

    chosen: str
    seconds: dict[str, float] = {}
    layers: tuple[int, ...] = ()
    depth: int


class Outcome(_Frozen):
    """What a target's build tells: what loading needs, and the options with what it chose."""

    needs: Needs
    options: dict[str, Any]
    choices: dict[str, Choice] = {}


class Predicted(_Frozen):
    """What the plan foretold: the artifact's size, the build step, and the first reload."""

    size_bytes: int
    peak_rss_bytes: int
    reload_rss_bytes: int
    seconds: float


class BuildFigures(_Frozen):
    """What the build cost on the machine it ran on, and what had been foretold."""

    seconds: float
    peak_rss_bytes: int
    predicted: Predicted | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `predicted` out where there is none: older manifests keep their bytes."""
        told: dict[str, Any] = inner(self)
        return told if self.predicted else {k: v for k, v in told.items() if k != "predicted"}


class Manifest(_Frozen):
    """Everything about an artifact that can be told without opening it."""

    schema_version: Literal[1] = 1
    name: str
    kind: str
    family: str
    options: dict[str, Any]
    recipe: RecipeStamp
    checkpoint: Origin
    needs: Needs
    versions: dict[str, str]
    machine: dict[str, Any]
    build: BuildFigures
    build_key: str
    choices: dict[str, Choice] = {}
    files: tuple[File, ...] = ()

    @model_serializer(mode="wrap")
    def _without_nothing(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `choices` out where there are none: older manifests keep their bytes."""
        told: dict[str, Any] = inner(self)
        return told if self.choices else {k: v for k, v in told.items() if k != "choices"}

    def canonical(self) -> bytes:
        """The manifest's bytes: sorted keys, UTF-8, one final newline."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        return text.encode() + b"\n"

    @property
    def digest(self) -> str:
        """The artifact's identity: sha256 of the canonical manifest."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all sealed files."""
        return sum(file.size_bytes for file in self.files)


def sha256_file(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest without looking at its files."""
    path = folder / MANIFEST
    try:
        require_plain(path)
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            msg = f"{path}: larger than {_MAX_MANIFEST_BYTES} bytes: not a manifest of ours"
            raise IntegrityError(msg)
        sealed = path.read_bytes()
        manifest = Manifest.model_validate_json(sealed)
        canonical = manifest.canonical()
    except FileNotFoundError:
        msg = (
            f"{folder} is not an artifact: it has no {MANIFEST}.\nBuild one: exporter build RECIPE"
        )
        raise IntegrityError(msg) from None
    except (ValueError, OSError) as error:  # pydantic's are ValueErrors, a NaN is a plain one
        reason = str(error).splitlines()[0]
        msg = f"{path} cannot be read ({reason}): build it again with --force"
        raise IntegrityError(msg) from error
    if canonical != sealed:
        msg = f"{path} was edited after sealing: build it again with --force"
        raise IntegrityError(msg)
    return manifest


def verify(folder: Path) -> Manifest:
    """Check that the folder holds the sealed files, byte for byte, and nothing else.

    An artifact that is replaced in the middle of that is looked at again, as the one it is now.
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
    """Raise BusyError where another artifact has taken the place of the one that was verified."""
    if read_manifest(folder) != manifest:
        msg = f"{folder} was replaced in the middle of this: run it again"
        raise BusyError(msg)


def _require_whole(folder: Path, manifest: Manifest) -> None:
    promised = {file.path for file in manifest.files}
    present = {path.relative_to(folder).as_posix() for path in _walk(folder)}
    present = {name for name in present if not _BEING_WRITTEN.fullmatch(name)}
    _refuse(folder, "missing", promised - present)
    _refuse(folder, "not in the manifest", present - promised - ENVELOPE)
    for file in manifest.files:
        path = folder / inside(file.path)
        try:
            require_plain(path)
            equal = path.stat().st_size == file.size_bytes and sha256_file(path) == file.sha256
        except FileNotFoundError:
            equal = False
        if not equal:
            msg = f"{path} is not what the manifest promises: build it again with --force"
            raise IntegrityError(msg)


def find(path: Path) -> list[Path]:
    """The artifact at `path`, or the artifacts in the folders right below it, by name."""
    if (path / MANIFEST).exists() or not path.is_dir():
        return [path]
    return sorted(
        inner.parent for inner in path.glob(f"*/{MANIFEST}") if inner.parent.name[0] != "."
    )


@contextmanager
def stage(final: Path) -> Iterator[Path]:
    """Give a fresh sibling folder to build into; it is gone when the block ends without `seal`.

    Holds a lock on the place, so that a second build of the same artifact fails at once. Folders
    that a killed build left behind are removed by the next one.
    """
    make_folder(final.parent)
    with _lock(final):
        recover(final)
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
    """Hash every staged file and write the manifest last; nothing is visible yet."""
    files = []
    for path in sorted(_walk(folder)):
        relative = path.relative_to(folder).as_posix()
        files.append(File(path=relative, size_bytes=path.stat().st_size, sha256=sha256_file(path)))
    sealed = manifest.model_copy(update={"files": tuple(files)})
    write_atomic(folder / MANIFEST, sealed.canonical())
    return sealed


def publish(folder: Path, final: Path) -> None:
    """Put a sealed folder into its place, under the lock of `stage`, instead of what stood there.

    Whoever looks finds the one or the other, whole.
    """
    put(folder, final)


@contextmanager
def _lock(final: Path) -> Iterator[None]:
    """Hold an advisory lock beside `final`; the kernel drops it when the process dies."""
    path = final.parent / f".{final.name}.lock"
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            msg = f"another build is writing {final}: wait for it, or choose another --output"
            raise BusyError(msg) from None
        yield


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, links included, folders not."""
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def inside(path: str) -> PurePosixPath:
    """A manifest's path, refused unless it stays inside the artifact."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path:
        msg = f"the manifest names {path!r}, which leads outside the artifact"
        raise IntegrityError(msg)
    return pure


def require_plain(path: Path) -> None:
    """Refuse links, whose target is another's, and pipes, which are never read to an end."""
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        kind = "a link" if path.is_symlink() or state.st_nlink != 1 else "no file"
        msg = f"{path} is {kind}: an artifact holds plain files only"
        raise IntegrityError(msg)


def _refuse(folder: Path, why: str, names: set[str]) -> None:
    if names:
        msg = (
            f"{folder}: {len(names)} file(s) {why}: {listed(names)}.\nBuild it again with --force."
        )
        raise IntegrityError(msg)
