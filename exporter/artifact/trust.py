"""Whose code may run here: what this machine built, and what its user vouches for.

A manifest says what an artifact is, not who made it. Weights and graphs are read as data, whoever
made them; a `.pt2` is a program. So what holds code is opened only if its digest is in the journal
that builds keep in the user's own folder, or if the caller says `trust`.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from exporter.artifact import signing, store
from exporter.artifact.manifest import Manifest
from exporter.errors import CheckpointError, IntegrityError, MachineError, TrustError, listed
from exporter.formats import pt2
from exporter.formats.config_json import refuse_code
from exporter.system.files import make_folder, write_atomic
from exporter.system.user_dirs import home, owned

_log = logging.getLogger(__name__)
_PLACE = "EXPORTER_STATE"
# What is only ever read as data. Of anything else nobody promises that.
_DATA = frozenset({".json", ".txt", ".yaml", ".safetensors", ".onnx", ".onnx_data"})
_PACKAGE = ".pt2"


def journal() -> Path:
    """A file for each artifact built here, named by its digest.

    In $EXPORTER_STATE, or `exporter` in the user's folder for state.
    """
    if chosen := os.environ.get(_PLACE):
        return Path(chosen) / "built"
    state = os.environ.get("XDG_STATE_HOME") or home() / ".local" / "state"
    return Path(state) / "exporter" / "built"


def record(manifest: Manifest) -> None:
    """Note that this machine built an artifact. A note that cannot be written costs `--trust`."""
    note = {"name": manifest.name, "kind": manifest.kind, "built": time.time()}
    try:
        make_folder(journal(), 0o700)
        write_atomic(journal() / manifest.digest, json.dumps(note).encode() + b"\n")
    except OSError as error:
        _log.warning("not noted as built here, so loading it may take --trust: %s", error)


def built_here(manifest: Manifest) -> bool:
    """Whether this machine built an artifact: its digest is in a journal that only we can write."""
    entry = journal() / manifest.digest
    return entry.is_file() and owned(entry.parent)


def code(manifest: Manifest) -> list[str]:
    """The files of an artifact that are more than data."""
    return [f.path for f in manifest.files if PurePosixPath(f.path).suffix not in _DATA]


def check_trust_before_download(
    name: str, folder: Path, manifest: Manifest, *, trust: bool
) -> None:
    """Raise TrustError for what `verify_and_authorize` would refuse, by manifest and signature.

    So what is on the Hub under this name is refused before it comes. No signature is checked yet.
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
    """Raise TrustError for an artifact with code that nobody answers for; nothing is opened."""
    found = code(manifest)
    if not found or trust or built_here(manifest):
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
        f"{where} holds code that was not built on this machine ({listed(found)}).\n"
        f"{doubt}Nothing of it was opened. {build} you trust who built it,{gap}"
        "load it with --trust (in Python: trust=True)."
    )
    raise TrustError(msg)


def verify_and_authorize(folder: Path, *, trust: bool) -> Manifest:
    """The one way to an artifact that is to be loaded: bytes verified, code answered for.

    Raises IntegrityError and TrustError, without having opened anything. Packages must be what we
    write, and configs without code, even if they are trusted: no build of ours makes others.
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
    """Raise TrustError for a config that brings code, or is none."""
    try:
        refuse_code(config)
    except CheckpointError as error:
        raise TrustError(str(error)) from error
