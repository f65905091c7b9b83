"""The gate before native code: an artifact must be built here, signed by a trusted key, or trusted.

A manifest says what an artifact is, not who built it. Weights and graphs are read as data; a `.pt2`
is a program. So an artifact with code is opened only if the local build registry, which `build`
writes, holds its digest, if a key of the keyring signed it, or if the caller passes `trust`.
"""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from exporter.artifact import signing, store
from exporter.artifact.build_registry import built_here
from exporter.artifact.manifest import Manifest
from exporter.errors import CheckpointError, IntegrityError, MachineError, TrustError
from exporter.formats import pt2
from exporter.formats.config_json import refuse_code
from exporter.system.text import listed

# Files that are only read as data. Any other suffix counts as code.
_DATA = frozenset({".json", ".txt", ".yaml", ".safetensors", ".onnx", ".onnx_data"})
_PACKAGE = ".pt2"


def code(manifest: Manifest) -> list[str]:
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
    _require(name, folder, manifest, signing.has_trusted_signer, trust=trust)


def _require(
    where: Path | str,
    folder: Path,
    manifest: Manifest,
    verify_trusted_signature: Callable[[Path, Manifest], None],
    *,
    trust: bool,
) -> None:
    """Raise TrustError for an artifact with code of unknown origin; nothing is opened."""
    code_files = code(manifest)
    if not code_files or trust or built_here(manifest):
        return
    doubt, build, gap = "", "Build it here (exporter build RECIPE --force), or, if", "\n"
    if signing.exists(folder):
        try:
            verify_trusted_signature(folder, manifest)
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
    _require(folder, folder, manifest, signing.verify_trusted_signature, trust=trust)
    for path in (folder / file.path for file in manifest.files):
        if path.suffix == _PACKAGE:
            pt2.check(path)
        elif path.name.endswith("config.json"):
            _require_data(path)
    return manifest


def _require_data(config: Path) -> None:
    """Raise TrustError for a config that brings code or cannot be read."""
    try:
        refuse_code(config)
    except CheckpointError as error:
        raise TrustError(str(error)) from error
