"""Signatures beside an artifact, in the format of OpenSSF model-signing, made and checked offline.

`model.sig` is over the artifact: its sealed files, the manifest and the provenance. `report.sig` is
over the verdict on it. Apart, because judging again must not take away what lets code run.

Whether a signature is of the files as they are is told without a key, and without the library.
"""

import base64
import json
import os
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from exporter.artifact import keyring, provenance, report, store
from exporter.artifact.manifest import MANIFEST, Manifest
from exporter.artifact.provenance import PROVENANCE
from exporter.artifact.store import SIDECAR_FILES
from exporter.errors import IntegrityError, listed
from exporter.system.files import read_small, sha256_file, write_atomic

SIGNATURE = "model.sig"
VERDICT = "report.sig"
SIGNATURES = (SIGNATURE, VERDICT)
_JUDGED = (report.REPORT, report.PAGE, report.PREDICTIONS)
_MAX_BYTES = 4 << 20


class _Strict(BaseModel):
    """Nothing but what is named: no second spelling that the library would read instead."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class _Key(_Strict):
    hint: str


class _Material(_Strict):
    public_key: _Key
    tlog_entries: Annotated[list[Any], Field(max_length=0)]


class _Signature(_Strict):
    sig: str
    keyid: str = ""


class _Envelope(_Strict):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


class _Bundle(_Strict):
    """A signature file: which key is said to have signed, and what."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Resource(_Strict):
    name: str
    algorithm: Literal["sha256"]
    digest: str


class _Predicate(BaseModel):
    resources: list[_Resource]


class _Statement(BaseModel):
    """As much of what was signed as names files."""

    predicateType: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


def sign(folder: Path, key: Path) -> Manifest:
    """Verify an artifact, and sign it and the verdict on it, if there is one, with a private key.

    Raises RecipeError for a key that cannot sign, IntegrityError for bytes, a provenance or a
    report that are not this artifact's.
    """
    keyring.require_private(key)
    manifest = store.verify(folder)
    provenance.require(folder, manifest)
    scopes = _scopes(folder, manifest)
    if VERDICT in scopes:
        report.read_of(folder, manifest)
    (folder / VERDICT).unlink(missing_ok=True)
    for name, covered in scopes.items():
        signing = keyring.model_signing().signing.Config().use_elliptic_key_signer(private_key=key)
        with TemporaryDirectory(prefix="exporter-") as scratch:
            made = Path(scratch, name)
            signing.set_hashing_config(_hashing(folder, covered)).sign(folder.resolve(), made)
            write_atomic(folder / name, made.read_bytes())
    require_current(folder, manifest)
    return manifest


def exists(folder: Path) -> bool:
    """Whether an artifact has a signature, good or bad."""
    return bool(_present(folder, SIGNATURES))


def require_current(folder: Path, manifest: Manifest) -> None:
    """Raise IntegrityError unless a verified artifact's signatures are of its files as they are.

    By whom they are is another question: no key is needed here.
    """
    for name, covered in _scopes(folder, manifest).items():
        _require_of(folder, manifest, name, covered)


def verify(folder: Path, manifest: Manifest, key: Path | None = None) -> dict[str, Path]:
    """By which key a verified artifact, and the verdict on it, are signed: `key`, or a trusted one.

    Raises IntegrityError where a signature is missing, of other bytes, or by another key.
    """
    scopes = _scopes(folder, manifest)
    return {name: _verified(folder, manifest, name, scopes[name], key) for name in scopes}


def verify_trusted_signature(folder: Path, manifest: Manifest) -> None:
    """Raise IntegrityError unless a trusted key signed a verified artifact, judged as it may be."""
    _verified(folder, manifest, SIGNATURE, _scopes(folder, manifest)[SIGNATURE], None)


def has_trusted_signer(folder: Path, manifest: Manifest) -> None:
    """Raise IntegrityError unless a trusted key is said to have signed; nothing is verified yet."""
    path = folder / SIGNATURE
    bundle, signed = _read(path)
    _maker(path, bundle, None)
    if signed.get(MANIFEST) != manifest.digest:
        msg = f"{path} was made for another artifact"
        raise IntegrityError(msg)


def _scopes(folder: Path, manifest: Manifest) -> Mapping[str, frozenset[str]]:
    """Which files each signature is over; a verdict's is over the manifest too, to be of no other.

    The card and its picture are written by every push, and places are this machine's own.
    """
    made = {file.path for file in manifest.files} | _present(folder, (PROVENANCE,))
    scopes = {SIGNATURE: frozenset(made | {MANIFEST})}
    if judged := _present(folder, _JUDGED):
        scopes[VERDICT] = frozenset(judged | {MANIFEST})
    return scopes


def _present(folder: Path, names: Collection[str]) -> set[str]:
    return {name for name in names if os.path.lexists(folder / name)}


def _require_of(folder: Path, manifest: Manifest, name: str, covered: Collection[str]) -> _Bundle:
    """Raise IntegrityError unless a signature names exactly these files, as they are."""
    again = f"exporter sign {folder} --key PRIVATE.pem"
    if not os.path.lexists(folder / name):
        whose = "" if name == SIGNATURE else "the report of "
        msg = f"{whose}{folder} is not signed: {again}"
        raise IntegrityError(msg)
    bundle, signed = _read(folder / name)
    known = {file.path: file.sha256 for file in manifest.files} | {MANIFEST: manifest.digest}
    here = {path: known.get(path) or _sha256(folder / path) for path in covered}
    if other := {path for path in {*here, *signed} if here.get(path) != signed.get(path)}:
        msg = f"{folder / name} was made for other bytes ({listed(other)}).\nSign again: {again}"
        raise IntegrityError(msg)
    return bundle


def _sha256(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() and not path.is_symlink() else None


def _read(path: Path) -> tuple[_Bundle, dict[str, str]]:
    """A signature file, and the files with their hashes that it names; nothing is verified yet.

    Read with the parser that the library uses, and strictly, so that both see the same.
    """
    try:
        data = read_small(path, _MAX_BYTES, ValueError, "a signature", follow_links=False)
        bundle = _Bundle.model_validate(json.loads(data.decode("utf-8")))
        payload = base64.b64decode(bundle.dsse_envelope.payload, validate=True)
        statement = _Statement.model_validate(json.loads(payload))
    except (ValueError, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path} is no signature by a key ({reason}): sign again, or remove it"
        raise IntegrityError(msg) from error
    return bundle, {one.name: one.digest for one in statement.predicate.resources}


def _verified(
    folder: Path, manifest: Manifest, name: str, covered: Collection[str], key: Path | None
) -> Path:
    """The key that made a signature of these very files: `key`, or one of the keyring."""
    path = folder / name
    maker = _maker(path, _require_of(folder, manifest, name, covered), key)
    checking = (
        keyring.model_signing().verifying.Config().use_elliptic_key_verifier(public_key=maker)
    )
    checking.set_hashing_config(_hashing(folder, covered))
    forged: type[Exception] = import_module("cryptography.exceptions").InvalidSignature
    try:
        checking.verify(folder.resolve(), path)
    except (ValueError, forged) as error:
        msg = f"{path} names {maker}, which did not make it: forged, or damaged"
        raise IntegrityError(msg) from error
    return maker


def _maker(path: Path, bundle: _Bundle, key: Path | None) -> Path:
    """The key that is said to have made a signature: `key`, or one of the keyring."""
    known = {keyring.hint(key): key} if key else keyring.hints()
    maker = known.get(bundle.verification_material.public_key.hint)
    if maker is None:
        msg = f"{path} was not made with {key}"
        if key is None:
            ring = keyring.keyring()
            msg = f"{path} was made with no key in {ring}: put its maker's there if you trust them"
        raise IntegrityError(msg)
    return maker


def _hashing(folder: Path, covered: Collection[str]) -> Any:
    """The library's way to hash exactly the files that are covered, hidden ones like all others."""
    every = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {path.relative_to(folder).as_posix() for path in every}
    config = keyring.model_signing().hashing.Config().use_file_serialization()
    others = sorted((present | SIDECAR_FILES) - set(covered))
    return config.set_ignored_paths(paths=others, ignore_git_paths=False)
