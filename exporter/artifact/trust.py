"""The gate before native code: an artifact must be built here, signed by a trusted key, or trusted.

A manifest says what an artifact is, not who built it. Weights and graphs are read as data; a `.pt2`
is a program. So an artifact with code is opened only if the local build registry, which `build`
writes, holds its digest, if a key of the keyring signed it, or if the caller passes `trust`.

Reading signatures needs pydantic, and is imported only where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from exporter.artifact import store
from exporter.artifact.build_registry import built_here
from exporter.errors import CheckpointError, IntegrityError, MachineError, TrustError, needing
from exporter.formats import pt2
from exporter.formats.config_json import refuse_code
from exporter.runtime.manifest import SealedManifest
from exporter.system.files import sha256_mapped
from exporter.system.text import listed

if TYPE_CHECKING:
    from exporter.artifact.manifest import Manifest
    from exporter.artifact.store import AnyManifest

# Files that are only read as data. Any other suffix counts as code.
_DATA = frozenset({".json", ".txt", ".yaml", ".safetensors", ".onnx", ".onnx_data"})
_PACKAGE = ".pt2"


def code(manifest: AnyManifest) -> list[str]:
    """Return the files of an artifact that are code."""
    return [f.path for f in manifest.files if PurePosixPath(f.path).suffix not in _DATA]


def check_trust_before_download(
    name: str, folder: Path, manifest: Manifest, *, trust: bool
) -> None:
    """Raise TrustError for what `verify_and_authorize` would refuse, before it is downloaded.

    Args:
        name: What errors call the artifact.
        folder: Where its manifest and signature are.
        manifest: Its manifest.
        trust: Accept code of unknown origin.

    Raises:
        TrustError: The artifact has code that was not built here, and its signature names no
            trusted key. The signature itself is not verified yet.
    """
    _require(name, folder, manifest, verified=False, trust=trust)


def _require(
    where: Path | str, folder: Path, manifest: AnyManifest, *, verified: bool, trust: bool
) -> None:
    """Raise TrustError for an artifact with code of unknown origin; nothing is opened.

    A signature is verified if the artifact's files are there and `verified`.
    """
    code_files = code(manifest)
    if not code_files or trust or built_here(manifest):
        return
    doubt, build, gap = "", "Build it here (exporter build RECIPE --force), or, if", "\n"
    if store.is_signed(folder):
        try:
            with needing("sign"):
                from exporter.artifact import signing

            check = signing.verify_trusted_signature if verified else signing.has_trusted_signer
            check(folder, manifest)
        except (IntegrityError, MachineError) as error:
            doubt, build, gap = str(error).splitlines()[0] + "\n", "If", " "
        else:
            return
    msg = (
        f"{where} holds code that was not built on this machine ({listed(code_files)}).\n"
        f"{doubt}Nothing of it was opened. {build} you trust its builder,{gap}"
        "load it with --trust (in Python: trust=True)."
    )
    raise TrustError(msg)


def verify_and_authorize(folder: Path, *, trust: bool) -> Manifest:
    """Verify an artifact's bytes and the origin of its code, before anything of it is opened.

    Every loader starts here. Packages must have the form that this package writes, and configs must
    bring no code, even in a trusted artifact.

    Args:
        folder: The artifact.
        trust: Accept code that was neither built here nor signed by a trusted key.

    Returns:
        The manifest.

    Raises:
        IntegrityError: Bytes differ from the manifest, or a package has another form.
        TrustError: Code is of unknown origin, or a config brings code.
    """
    manifest = store.verify(folder)
    _authorize(folder, manifest, trust=trust)
    return manifest


@contextmanager
def opening(
    folder: Path, *, trust: bool, meanwhile: Callable[[SealedManifest], bool] = lambda _: True
) -> Iterator[SealedManifest]:
    """Do the same around a block that opens an artifact, without reading the whole manifest.

    Data is hashed in a thread while the block opens it: nothing may come out of the block before
    its end. Code is hashed, and its origin known, before the block begins.

    Args:
        folder: The artifact.
        trust: Accept code that was neither built here nor signed by a trusted key.
        meanwhile: Whether the block opens no code of such an artifact but the bytes that
            `store.read_verified` returns, so that data may be hashed meanwhile.

    Yields:
        What the manifest says to who opens the artifact.

    Raises:
        IntegrityError: As `verify_and_authorize`, also for whatever error the block raises over
            bytes that are not the sealed ones.
        TrustError: As `verify_and_authorize`.
        BusyError: The artifact was replaced meanwhile.
    """
    manifest = store.read_sealed(folder)
    if meanwhile(manifest):
        _require_current(folder, manifest, store.require_files)
        with ThreadPoolExecutor(1, "hashing") as pool:
            hashed = pool.submit(_require_current, folder, manifest, _require_bytes)
            try:
                _require_current(folder, manifest, _require_code)
                _authorize(folder, manifest, trust=trust)
                yield manifest
            finally:
                hashed.result()
    else:
        manifest = store.verify_sealed(folder)
        _authorize(folder, manifest, trust=trust)
        yield manifest
    store.require_same(folder, manifest)  # fails if the artifact was replaced meanwhile


def _require_current(
    folder: Path, manifest: SealedManifest, check: Callable[[Path, AnyManifest], None]
) -> None:
    """Check files; raise BusyError instead of IntegrityError if another artifact is in place."""
    try:
        check(folder, manifest)
    except IntegrityError:
        store.require_same(folder, manifest)
        raise


def _require_bytes(folder: Path, manifest: AnyManifest) -> None:
    store.require_hashes(folder, manifest, digest=sha256_mapped)


def _require_code(folder: Path, manifest: AnyManifest) -> None:
    store.require_hashes(folder, manifest, code(manifest))


def _authorize(folder: Path, manifest: AnyManifest, *, trust: bool) -> None:
    """Check the origin of an artifact's code, which is verified, and the forms of its files."""
    _require(folder, folder, manifest, verified=True, trust=trust)
    _require_forms(folder, manifest)


def _require_forms(folder: Path, manifest: AnyManifest) -> None:
    """Check that packages have the form that we write, and that configs bring no code."""
    for path in (folder / file.path for file in manifest.files):
        if path.suffix == _PACKAGE:
            pt2.check(path)
        elif path.name.endswith("config.json"):
            _require_data(path)


def _require_data(config: Path) -> None:
    """Raise TrustError for a config that brings code or cannot be read."""
    try:
        refuse_code(config)
    except CheckpointError as error:
        raise TrustError(str(error)) from error
