"""The provenance of an artifact: an in-toto statement with SLSA's predicate, beside the manifest.

Outside the digest, because it has the time of the build. It is only as trustworthy as the signature
over it. It may be published: it has no path, and no name of a machine or a user.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from exporter.errors import IntegrityError
from exporter.runtime.manifest import MANIFEST, RECIPE
from exporter.system.files import read_small, write_atomic

if TYPE_CHECKING:
    from exporter.artifact.manifest import Manifest, Origin
    from exporter.artifact.store import AnyManifest
    from exporter.recipe import Recipe

PROVENANCE = "provenance.intoto.json"
# https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
_STATEMENT = "https://in-toto.io/Statement/v1"
# https://slsa.dev/spec/v1.0/provenance
_PREDICATE = "https://slsa.dev/provenance/v1"
# docs/trust.md defines both. The builder is the user who ran the command, on any machine.
_BUILD_TYPE = "urn:x-exporter:build:v1"
_BUILDER = "urn:x-exporter:own-machine:v1"
_OURSELVES = "exporter"
_MAX_BYTES = 4 << 20


def write(
    folder: Path,
    manifest: Manifest,
    recipe: Recipe,
    target: dict[str, Any],
    started: datetime,
    predecessor: Manifest | None = None,
) -> None:
    """Write the provenance of a sealed artifact that was built from `started` until now.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        recipe: The recipe that it was built from.
        target: The target with all defaults.
        started: When the build began.
        predecessor: The artifact whose files were sealed again with another recipe.
    """
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": n, "digest": {"sha256": s}} for n, s in _subjects(manifest).items()],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"recipe": _resolved(recipe, target, manifest.checkpoint)},
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


def require(folder: Path, manifest: AnyManifest) -> None:
    """Raise IntegrityError if a provenance exists and is not about this artifact."""
    path = folder / PROVENANCE
    if not os.path.lexists(path):
        return
    try:
        data = read_small(path, _MAX_BYTES, ValueError, "a provenance", follow_links=False)
        predicate, named = _bound(json.loads(data))
    except (ValueError, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path} cannot be read ({reason}): remove it, or build again with --force"
        raise IntegrityError(msg) from error
    if predicate != _PREDICATE or named != _subjects(manifest):
        msg = f"{path} describes another artifact: remove it, or build again with --force"
        raise IntegrityError(msg)


def _bound(statement: Any) -> tuple[Any, dict[Any, Any]]:
    """Return what binds a statement to an artifact: its predicate, and the hashes of its subjects.

    Raises:
        ValueError: It is no statement.
    """
    try:
        named = {each["name"]: each["digest"].get("sha256") for each in statement["subject"]}
        return statement["predicateType"], named
    except (AttributeError, KeyError, TypeError) as error:
        msg = "it is no statement about files"
        raise ValueError(msg) from error


def _subjects(manifest: AnyManifest) -> dict[str, str]:
    """Return the statement's subjects: every sealed file and the manifest, with their sha256."""
    return {**{file.path: file.sha256 for file in manifest.files}, MANIFEST: manifest.digest}


def _resolved(recipe: Recipe, target: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """Return the recipe for this target with all defaults, and paths cut to their last name."""
    resolved = recipe.model_dump(mode="json", exclude={"targets"}, exclude_none=True)
    resolved |= {"checkpoint": origin.source, "targets": [target]}
    if recipe.data and recipe.data.clips:
        resolved["data"]["clips"] = Path(recipe.data.clips).name or "."
    return resolved


def _dependencies(manifest: Manifest, predecessor: Manifest | None) -> Iterator[dict[str, Any]]:
    """Yield the inputs of the build: checkpoint, recipe, wheels."""
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
