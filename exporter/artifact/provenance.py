"""Where an artifact came from: an in-toto statement with SLSA's provenance, beside the manifest.

Outside the digest, since it tells when. It is its builder's own word, and is worth the signature
over it. Like a manifest it may be published: no path, no name of a machine or a user is in it.
"""

import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from exporter.artifact.manifest import MANIFEST, RECIPE, Manifest, Origin
from exporter.errors import IntegrityError
from exporter.recipe import Recipe
from exporter.system.files import read_small, write_atomic

PROVENANCE = "provenance.intoto.json"
# https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
_STATEMENT = "https://in-toto.io/Statement/v1"
# https://slsa.dev/spec/v1.0/provenance
_PREDICATE = "https://slsa.dev/provenance/v1"
# What both mean stands in docs/design.md. A builder is whoever ran the command, on any machine.
_BUILD_TYPE = "urn:x-exporter:build:v1"
_BUILDER = "urn:x-exporter:own-machine:v1"
_OURSELVES = "exporter"
_MAX_BYTES = 4 << 20


class _Subject(BaseModel):
    name: str
    digest: dict[str, str]


class _Statement(BaseModel):
    """As much of a statement as binds it to an artifact."""

    predicateType: str
    subject: tuple[_Subject, ...]


def write(
    folder: Path,
    manifest: Manifest,
    recipe: Recipe,
    asked: dict[str, Any],
    started: datetime,
    predecessor: Manifest | None = None,
) -> None:
    """Tell how a sealed artifact was made, from `started` until now.

    `asked` is the target as the recipe resolved it; `predecessor` the artifact whose files were
    sealed again under another recipe.
    """
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": n, "digest": {"sha256": s}} for n, s in _subjects(manifest).items()],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"recipe": _resolved(recipe, asked, manifest.checkpoint)},
                "internalParameters": {
                    "family": manifest.family,
                    "options": manifest.options,
                    "choices": manifest.model_dump(mode="json").get("choices", {}),
                    "quantization": manifest.model_dump(mode="json").get("quantization", []),
                    "machine": manifest.machine,
                },
                "resolvedDependencies": list(_dependencies(manifest, predecessor)),
            },
            "runDetails": {
                "builder": {
                    "id": _BUILDER,
                    "version": {_OURSELVES: manifest.versions.get(_OURSELVES, "unknown")},
                },
                "metadata": {
                    "invocationId": uuid.uuid4().urn,
                    "startedOn": _told(started),
                    "finishedOn": _told(datetime.now(UTC)),
                },
            },
        },
    }
    text = json.dumps(statement, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(folder / PROVENANCE, text.encode() + b"\n")


def require(folder: Path, manifest: Manifest) -> None:
    """Raise IntegrityError for a provenance, where there is one, that is not of this artifact."""
    path = folder / PROVENANCE
    if not os.path.lexists(path):
        return
    try:
        data = read_small(path, _MAX_BYTES, ValueError, "a provenance", follow_links=False)
        told = _Statement.model_validate_json(data)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path} cannot be read ({reason}): remove it, or build again with --force"
        raise IntegrityError(msg) from error
    named = {subject.name: subject.digest.get("sha256") for subject in told.subject}
    if told.predicateType != _PREDICATE or named != _subjects(manifest):
        msg = f"{path} tells of another artifact: remove it, or build again with --force"
        raise IntegrityError(msg)


def _subjects(manifest: Manifest) -> dict[str, str]:
    """What the statement is about: every sealed file, and the manifest, with its sha256."""
    return {**{file.path: file.sha256 for file in manifest.files}, MANIFEST: manifest.digest}


def _resolved(recipe: Recipe, asked: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """The recipe for this one target, all defaults told; of a path only its last name."""
    told = recipe.model_dump(mode="json", exclude={"targets"}, exclude_none=True)
    told |= {"checkpoint": origin.source, "targets": [asked]}
    if recipe.data and recipe.data.clips:
        told["data"]["clips"] = Path(recipe.data.clips).name or "."
    return told


def _dependencies(manifest: Manifest, predecessor: Manifest | None) -> Iterator[dict[str, Any]]:
    """What went into it: the checkpoint, the recipe, the wheels; of weights our own sha256."""
    origin = manifest.checkpoint
    yield {"name": "checkpoint", "digest": {"sha256": origin.sha256}}
    if origin.revision:
        repo = origin.source.partition("@")[0]
        commit = {"gitCommit": origin.revision}
        yield {"uri": f"git+https://huggingface.co/{repo}@{origin.revision}", "digest": commit}
    yield {"name": RECIPE, "digest": {"sha256": manifest.recipe.sha256}}
    if predecessor:
        yield {"name": MANIFEST, "digest": {"sha256": predecessor.digest}}
    for name, version in sorted(manifest.versions.items()):
        if name != _OURSELVES:  # that is the builder
            yield {"name": name, "uri": f"pkg:pypi/{name}@{quote(version)}"}


def _told(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
