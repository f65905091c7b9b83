"""Provenance as it is written."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from exporter import recipe
from exporter.artifact import provenance, store

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def read(folder: Path) -> dict[str, Any]:
    """A statement that the published schemas of both formats know every field of."""
    told: dict[str, Any] = json.loads((folder / provenance.PROVENANCE).read_text())
    parsed = json_format.ParseDict(told, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    json_format.ParseDict(told["predicate"], provenance_pb2.Provenance())
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    manifest = store.verify(folder)
    subjects = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
    assert subjects.pop("manifest.json") == manifest.digest
    assert subjects == {file.path: file.sha256 for file in manifest.files}
    provenance.require(folder, manifest)
    return told


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    manifest = store.read_manifest(folder).model_copy(update=changes)
    asked = {"kind": "onnx-int8", "name": "onnx-int8", "preset": "avx512_vnni"}
    provenance.write(folder, manifest, recipe.read(folder / "recipe.yaml"), asked, STARTED)
    return read(folder)
