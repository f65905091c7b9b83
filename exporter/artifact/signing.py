"""Signatures beside an artifact, in the format of OpenSSF model-signing, offline.

`model.sig` covers the artifact: its sealed files, the manifest and the provenance. `report.sig`
covers the report on it. They are separate, because validating again must not invalidate the
signature that lets native code run.

Comparing a signature with the files as they are needs neither a key nor the library.
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
from exporter.artifact.store import SIDECAR_FILES, SIGNATURES, AnyManifest
from exporter.errors import IntegrityError, MachineError
from exporter.system.files import read_small, sha256_file, write_atomic
from exporter.system.text import listed

SIGNATURE, VERDICT = SIGNATURES
_JUDGED = (report.REPORT, report.PAGE, report.PREDICTIONS)
_MAX_BYTES = 4 << 20


class _Strict(BaseModel):
    """Accepts only the declared keys, because the library might read other spellings too."""

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
    """A signature file: the hint of the signing key, and the signed statement."""

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
    """The part of the signed statement that names files."""

    predicateType: Literal["https://model_signing/signature/v1.0"]
    predicate: _Predicate


def sign(folder: Path, key: Path) -> Manifest:
    """Verify an artifact, then sign it and its report, if there is one.

    Args:
        folder: The artifact.
        key: A private key on the curve P-256, P-384 or P-521, in PEM.

    Returns:
        The artifact's manifest.

    Raises:
        RecipeError: The key cannot sign.
        IntegrityError: Bytes, provenance or report are not this artifact's.
        MachineError: model-signing is not installed.
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
            signature = Path(scratch, name)
            signing.set_hashing_config(_hashing(folder, covered)).sign(folder.resolve(), signature)
            write_atomic(folder / name, signature.read_bytes())
    require_current(folder, manifest)
    return manifest


def require_current(folder: Path, manifest: Manifest) -> None:
    """Raise IntegrityError unless a verified artifact's signatures are about its current files.

    This needs no key, and does not check who signed.
    """
    for name, covered in _scopes(folder, manifest).items():
        _require_of(folder, manifest, name, covered)


def require_unforged(folder: Path, manifest: Manifest) -> None:
    """Check those signatures that a verified artifact has, as far as this machine can.

    They must be about its current files. One by a key of the keyring is also verified, if the
    library is installed; who else signed is not known here.

    Raises:
        IntegrityError: A signature is about other bytes, or a trusted key did not make it.
    """
    scopes = _scopes(folder, manifest)
    for name in sorted(_present(folder, SIGNATURES)):
        if name not in scopes:
            msg = f"{folder / name} is for a report that is not there"
            raise IntegrityError(msg)
        bundle = _require_of(folder, manifest, name, scopes[name])
        key = _known_key(bundle)
        if key is not None:
            _verified(folder, manifest, name, scopes[name], key)


def _known_key(bundle: _Bundle) -> Path | None:
    """Return the key of the keyring that a signature names; None without the library, too."""
    if not keyring.trusted():
        return None
    try:
        return keyring.hints().get(bundle.verification_material.public_key.hint)
    except MachineError:
        return None


def verify(folder: Path, manifest: AnyManifest, key: Path | None = None) -> dict[str, Path]:
    """Verify the signatures of an artifact and its report.

    Args:
        folder: The artifact.
        manifest: Its verified manifest.
        key: The public key to require; None for any key of the keyring.

    Returns:
        The signature files, each with the key that signed it.

    Raises:
        IntegrityError: A signature is missing, about other bytes, or by another key.
    """
    scopes = _scopes(folder, manifest)
    return {name: _verified(folder, manifest, name, scopes[name], key) for name in scopes}


def verify_trusted_signature(folder: Path, manifest: AnyManifest) -> None:
    """Raise IntegrityError unless a trusted key signed a verified artifact, with any report."""
    _verified(folder, manifest, SIGNATURE, _scopes(folder, manifest)[SIGNATURE], None)


def has_trusted_signer(folder: Path, manifest: AnyManifest) -> None:
    """Raise IntegrityError unless `model.sig` names a trusted key; nothing is verified yet."""
    path = folder / SIGNATURE
    bundle, signed = _read(path)
    _maker(path, bundle, None)
    if signed.get(MANIFEST) != manifest.digest:
        msg = f"{path} is for another artifact"
        raise IntegrityError(msg)


def _scopes(folder: Path, manifest: AnyManifest) -> Mapping[str, frozenset[str]]:
    """Map each signature to the files that it covers; both cover the manifest.

    Not covered are the model card and its picture, which every push writes, and local paths.
    """
    built = {file.path for file in manifest.files} | _present(folder, (PROVENANCE,))
    scopes = {SIGNATURE: frozenset(built | {MANIFEST})}
    if judged := _present(folder, _JUDGED):
        scopes[VERDICT] = frozenset(judged | {MANIFEST})
    return scopes


def _present(folder: Path, names: Collection[str]) -> set[str]:
    return {name for name in names if os.path.lexists(folder / name)}


def _require_of(
    folder: Path, manifest: AnyManifest, name: str, covered: Collection[str]
) -> _Bundle:
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
        msg = f"{folder / name} is for other bytes ({listed(other)}).\nSign again: {again}"
        raise IntegrityError(msg)
    return bundle


def _sha256(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() and not path.is_symlink() else None


def _read(path: Path) -> tuple[_Bundle, dict[str, str]]:
    """Read a signature file, and the hashes of the files that it names; nothing is verified yet.

    Uses the library's own parser, strictly, so that both see the same.
    """
    try:
        data = read_small(path, _MAX_BYTES, ValueError, "a signature", follow_links=False)
        bundle = _Bundle.model_validate(json.loads(data.decode("utf-8")))
        payload = base64.b64decode(bundle.dsse_envelope.payload, validate=True)
        statement = _Statement.model_validate(json.loads(payload))
    except (ValueError, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path} is not a signature by a key ({reason}): sign again, or remove it"
        raise IntegrityError(msg) from error
    return bundle, {one.name: one.digest for one in statement.predicate.resources}


def _verified(
    folder: Path, manifest: AnyManifest, name: str, covered: Collection[str], key: Path | None
) -> Path:
    """Verify a signature of these very files; return its key: `key`, or one of the keyring."""
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
        msg = f"{path} names {maker}, whose key did not sign it: forged or damaged"
        raise IntegrityError(msg) from error
    return maker


def _maker(path: Path, bundle: _Bundle, key: Path | None) -> Path:
    """Return the key that a signature names: `key`, or one of the keyring."""
    known = {keyring.hint(key): key} if key else keyring.hints()
    maker = known.get(bundle.verification_material.public_key.hint)
    if maker is None:
        msg = f"{path} is not by {key}"
        if key is None:
            ring = keyring.keyring()
            msg = f"{path} is by no key in {ring}: add its signer's key there if you trust them"
        raise IntegrityError(msg)
    return maker


def _hashing(folder: Path, covered: Collection[str]) -> Any:
    """Return the library's settings for hashing exactly the covered files, hidden ones too.

    Raises:
        IntegrityError: A file beside the sealed ones is a link or no file, which the library
            refuses too, even where it ignores the file.
    """
    for name in sorted(_present(folder, SIDECAR_FILES)):
        store.require_plain(folder / name)
    every = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {path.relative_to(folder).as_posix() for path in every}
    config = keyring.model_signing().hashing.Config().use_file_serialization()
    others = sorted((present | SIDECAR_FILES) - set(covered))
    return config.set_ignored_paths(paths=others, ignore_git_paths=False)
