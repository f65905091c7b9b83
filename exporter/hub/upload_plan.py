"""Plan one push: an artifact's files with their hashes, and the repository.

One artifact goes to the root of one repository, because `from_pretrained("ORG/NAME")` looks there,
and a repository has one card, one base model and one verdict.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifact import report
from exporter.artifact.manifest import MANIFEST
from exporter.artifact.provenance import PROVENANCE
from exporter.artifact.store import SIGNATURES
from exporter.errors import IntegrityError, RecipeError
from exporter.hub import model_card
from exporter.hub.client import digest_tag, git_sha1, hub_id
from exporter.hub.eligibility import PublishableArtifact
from exporter.system.files import read_small, write_atomic

_log = logging.getLogger(__name__)
# Smaller files are read once, checked, and sent from memory; the Hub stores larger ones as LFS.
_SMALL = 10_000_000
_MAX_SIGNED_BYTES = 4 << 20


@dataclass(frozen=True)
class UploadFile:
    """A file to push: `source` is a small file's bytes, which have a `git_sha1`, or a path."""

    path: str
    size_bytes: int
    sha256: str
    git_sha1: str | None
    source: bytes | Path

    def equals(self, there: Any) -> bool:
        """Return True if a file as the Hub lists it has these bytes; large ones have a sha256."""
        if there is None:
            return False
        if there.lfs:
            return bool(there.lfs.sha256 == self.sha256)
        return bool(there.blob_id == self.git_sha1)


@dataclass(frozen=True)
class UploadPlan:
    """Everything that is pushed to one repository."""

    repo: str
    private: bool
    proof: PublishableArtifact
    items: tuple[UploadFile, ...]

    @property
    def title(self) -> str:
        """The commit's title, also a pull request's."""
        manifest = self.proof.manifest
        return f"{manifest.recipe.name} {manifest.kind} (sha256:{manifest.digest[:12]})"

    @property
    def tag(self) -> str:
        """The tag of this digest, which stays when another artifact is pushed."""
        return digest_tag(self.proof.manifest.digest)

    @property
    def size_bytes(self) -> int:
        """Bytes of everything."""
        return sum(item.size_bytes for item in self.items)

    @property
    def sealed(self) -> tuple[UploadFile, ...]:
        """The items that the digest covers, and the manifest whose sha256 it is."""
        names = {file.path for file in self.proof.manifest.files} | {MANIFEST}
        return tuple(item for item in self.items if item.path in names)


def plan_uploads(
    proofs: Sequence[PublishableArtifact], repo: str | None, private: bool | None
) -> list[UploadPlan]:
    """Choose every artifact's repository, render its card, and hash its files.

    Several artifacts, or one of a recipe with several targets and no `repo`, get a repository each,
    named after the target.

    Args:
        proofs: Artifacts of one recipe that may be published.
        repo: `ORG/NAME` instead of the recipe's.
        private: Visibility of a new repository, instead of the recipe's.

    Raises:
        RecipeError: There is no usable repository name, recipes differ, or a path of this machine
            would be published.
        IntegrityError: Bytes changed after they were verified.
    """
    if len({proof.manifest.recipe.sha256 for proof in proofs}) > 1:
        folders = ", ".join(str(proof.folder) for proof in proofs)
        msg = f"{folders} are of different recipes.\nPush them one by one, or build them again."
        raise RecipeError(msg)
    plans = []
    for proof in proofs:
        address = _address(proof, repo, alone=len(proofs) == 1)
        hub = proof.recipe.hub
        closed = private if private is not None else hub is None or hub.private
        _refuse_paths(proof)
        for fact in model_card.missing(proof):
            _log.warning("%s: its model card names no %s", proof.folder, fact)
        plans.append(UploadPlan(address, closed, proof, tuple(_items(proof, address))))
    return plans


def write_cards(plans: Sequence[UploadPlan]) -> None:
    """Write each artifact's card into its folder."""
    for plan in plans:
        for item in plan.items:
            if item.path in (model_card.CARD, model_card.PICTURE) and isinstance(
                item.source, bytes
            ):
                write_atomic(plan.proof.folder / item.path, item.source)


def _address(proof: PublishableArtifact, repo: str | None, *, alone: bool) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    hub, several = proof.recipe.hub, len(proof.recipe.targets) > 1
    if repo is None and hub is None:
        msg = "no repository: give --repo ORG/NAME, or `hub: {repo: ORG/NAME}` in the recipe"
        raise RecipeError(msg)
    stem = repo or (hub.repo if hub else "")
    shared = several if repo is None else not alone
    address = f"{stem}-{proof.folder.resolve().name}" if shared else stem
    try:
        validate_repo_id(address)
    except HFValidationError:
        address = ""
    if hub_id(address) is None or "@" in address:
        msg = f"{stem!r} is not a repository: give one like ORG/NAME"
        raise RecipeError(msg)
    return address


def _refuse_paths(proof: PublishableArtifact) -> None:
    """Raise RecipeError if the sealed recipe, which is published, has paths of this machine."""
    paths = proof.recipe.absolute_paths
    if paths:
        msg = (
            f"{proof.folder}: its recipe.yaml names {paths[0]}, and would be published with it.\n"
            "Name it from the recipe's folder (../models/mine), build again, and validate."
        )
        raise RecipeError(msg)


def _items(proof: PublishableArtifact, repo: str) -> list[UploadFile]:
    manifest, judged = proof.manifest, proof.report
    promised = {file.path: file.sha256 for file in manifest.files}
    promised[MANIFEST] = manifest.digest
    promised[report.PREDICTIONS] = judged.predictions_sha256
    promised[report.PAGE] = judged.page_sha256
    files = [_item(proof.folder, name, sha256) for name, sha256 in promised.items()]
    beside = (proof.folder / name for name in (PROVENANCE, *SIGNATURES))
    files += [_small(path.name, _read_signed(path)) for path in beside if path.is_file()]
    ours = {report.REPORT: report.text(judged), **model_card.render(proof, repo)}
    return sorted([*files, *(_small(*one) for one in ours.items())], key=lambda item: item.path)


def _read_signed(path: Path) -> bytes:
    """Read a provenance or a signature, which was verified as a file of bounded size."""
    return read_small(path, _MAX_SIGNED_BYTES, IntegrityError, "a signature", follow_links=False)


def _item(folder: Path, name: str, promised: str) -> UploadFile:
    path = folder / name
    if path.stat().st_size >= _SMALL:  # hashed again while it is sent
        return UploadFile(name, path.stat().st_size, promised, None, path)
    item = _small(name, path.read_bytes())
    if item.sha256 != promised:
        msg = f"{path} changed after it was verified: run this again"
        raise IntegrityError(msg)
    return item


def _small(name: str, data: bytes) -> UploadFile:
    return UploadFile(name, len(data), hashlib.sha256(data).hexdigest(), git_sha1(data), data)
