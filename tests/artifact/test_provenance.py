"""Provenance: as in-toto and SLSA define it, of exactly this artifact, and nobody's secrets."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from exporter import recipe
from exporter.artifact import provenance, store
from exporter.artifact.manifest import Manifest
from exporter.build.pipeline import build
from exporter.errors import IntegrityError
from exporter.system.progress import silent
from tests.support import passing
from tests.support.provenance import read, written
from tests.support.recipes import write_recipe

CANARY = "canary7f3a"


def test_a_checkpoint_of_the_hub_is_named_by_its_commit(tmp_path: Path) -> None:
    told = written(passing.make(tmp_path / "speech"))["predicate"]
    definition = told["buildDefinition"]
    commit = "c" * 40
    assert {
        "uri": f"git+https://huggingface.co/openai/whisper-small@{commit}",
        "digest": {"gitCommit": commit},
    } in definition["resolvedDependencies"]
    assert {"name": "torch", "uri": "pkg:pypi/torch@2.13.0"} in definition["resolvedDependencies"]
    asked = definition["externalParameters"]["recipe"]
    assert asked["checkpoint"] == "openai/whisper-small"
    assert asked["targets"] == [{"kind": "onnx-int8", "name": "onnx-int8", "preset": "avx512_vnni"}]
    assert asked["gate"]["min_clips"] == 50
    assert asked["data"]["max_clips"] == 200
    assert told["runDetails"]["metadata"]["startedOn"] == "2026-01-02T03:04:05Z"
    assert told["runDetails"]["builder"]["version"] == {"exporter": "0.1"}


def test_a_version_is_quoted_as_package_urls_are(tmp_path: Path) -> None:
    told = written_with_versions(tmp_path, {"torch": "2.13.0+cpu"})
    assert "pkg:pypi/torch@2.13.0%2Bcpu" in told


def written_with_versions(tmp_path: Path, versions: dict[str, str]) -> str:
    folder = passing.make(tmp_path / "speech", versions=versions)
    return json.dumps(written(folder))


def test_one_of_another_artifact_is_refused(tmp_path: Path) -> None:
    folder = passing.make(tmp_path / "speech")
    written(folder)
    kept = (folder / provenance.PROVENANCE).read_bytes()
    other = passing.make(tmp_path / "other", seed=3)
    (other / provenance.PROVENANCE).write_bytes(kept)
    hostile = (b"{", b"[]", b"[" * 99_999, b"\xff", b'{"predicateType": 1, "subject": []}')
    for data in (kept, *hostile):
        (other / provenance.PROVENANCE).write_bytes(data)
        with pytest.raises(IntegrityError, match=r"provenance\.intoto\.json") as refused:
            provenance.require(other, store.read_manifest(other))
        assert len(str(refused.value).splitlines()) <= 3


@pytest.mark.slow
@pytest.mark.usefixtures("steps_here")
def test_what_a_build_tells_and_what_it_keeps_to_itself(
    english_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build, a second that keeps it, and one that seals it again under another gate."""
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY}")
    monkeypatch.setenv("USER", CANARY)
    monkeypatch.setenv("HOSTNAME", CANARY)
    home = tmp_path / CANARY
    home.mkdir()
    wanted = write_recipe(home, english_whisper, "{}")
    absolute = [f"data.clips={home / 'clips'}", "targets=[{kind: torch-int8}]"]
    where: Any = {"output": home / "out", "progress": silent}

    def built(*overrides: str) -> tuple[Manifest, dict[str, Any]]:
        (one,) = build(recipe.read(wanted.path, [*absolute, *overrides]), **where)
        text = (one.path / provenance.PROVENANCE).read_text()
        for secret in (CANARY, str(tmp_path), str(Path.home()), socket.gethostname()):
            assert secret not in text
        return one.manifest, read(one.path)

    manifest, first = built()
    definition = first["predicate"]["buildDefinition"]
    asked = definition["externalParameters"]["recipe"]
    assert (asked["checkpoint"], asked["data"]["clips"]) == (english_whisper.name, "clips")
    assert asked["targets"] == [{"kind": "torch-int8", "name": "torch-int8"}]
    digests = [one["digest"]["sha256"] for one in definition["resolvedDependencies"][:2]]
    assert digests == [manifest.checkpoint.sha256, manifest.recipe.sha256]
    times = first["predicate"]["runDetails"]["metadata"]
    assert times["startedOn"] <= times["finishedOn"]
    assert built() == (manifest, first)
    renewed, second = built("gate.min_clips=3")
    definition = second["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["recipe"]["gate"]["min_clips"] == 3
    assert {"name": "manifest.json", "digest": {"sha256": manifest.digest}} in definition[
        "resolvedDependencies"
    ]
    assert renewed.digest != manifest.digest
