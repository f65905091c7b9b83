"""Artifacts on disk: sealed whole or not at all, and never trusted unread."""

import json
import os
import re
from pathlib import Path
from shlex import quote

import pytest

from exporter.artifact import lookup, store
from exporter.artifact.manifest import BuildFigures, Manifest, Origin, RecipeStamp, Requirements
from exporter.errors import BusyError, IntegrityError
from exporter.system import files


def manifest() -> Manifest:
    return Manifest(
        name="demo",
        kind="onnx-int8",
        family="whisper",
        options={"per_channel": True},
        recipe=RecipeStamp(name="demo", sha256="0" * 64, source="demo.yaml"),
        checkpoint=Origin(source="x", revision=None, sha256="1" * 64, size_bytes=8, parameters=2),
        needs=Requirements(),
        versions={"torch": "2.13.0"},
        machine={},
        build=BuildFigures(seconds=1.5, peak_rss_bytes=3),
        build_key="2" * 64,
    )


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    final = tmp_path / "demo" / "onnx-int8"
    with store.stage(final) as folder:
        (folder / "weights.bin").write_bytes(bytes(range(256)))
        (folder / "deep").mkdir()
        (folder / "deep" / "config.json").write_text("{}")
        store.seal(folder, manifest())
        store.publish(folder, final)
    return final


def test_a_sealed_artifact_verifies_and_has_a_stable_digest(sealed: Path) -> None:
    told = store.verify(sealed)
    assert [file.path for file in told.files] == ["deep/config.json", "weights.bin"]
    assert told.size_bytes == 258
    assert told.digest == files.sha256_file(sealed / "manifest.json")


def test_the_envelope_is_outside_the_digest(sealed: Path) -> None:
    digest = store.verify(sealed).digest
    files.write_atomic(sealed / "report.json", b"{}")
    assert store.verify(sealed).digest == digest


@pytest.mark.parametrize("place", [0, 100, 255])
def test_one_changed_bit_is_found(sealed: Path, place: int) -> None:
    data = bytearray((sealed / "weights.bin").read_bytes())
    data[place] ^= 1
    (sealed / "weights.bin").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"weights\.bin does not match the manifest"):
        store.verify(sealed)


def test_missing_and_extra_files_are_named(sealed: Path) -> None:
    (sealed / "weights.bin").rename(sealed / "other.bin")
    with pytest.raises(IntegrityError, match=r"1 file\(s\) missing: weights\.bin"):
        store.verify(sealed)
    (sealed / "weights.bin").write_bytes((sealed / "other.bin").read_bytes())
    with pytest.raises(IntegrityError, match=r"not in the manifest: other\.bin"):
        store.verify(sealed)


IGNORED = (
    *(".DS_Store", "deep/.ds_store", "Thumbs.db", "desktop.ini", ".git", ".git/HEAD"),
    *("._weights.bin", ".gitattributes", ".ipynb_checkpoints/a.json", ".nfs0000001"),
    *(".cache/huggingface/download/x.lock", "__MACOSX/x", ".fuse_hidden01", ".gitignore"),
)
KEPT = ("my.DS_Store", "git/HEAD", ".cache/x", "nfs1", "config.json", ".hidden", "a/.git2")


@pytest.mark.parametrize("name", IGNORED)
def test_what_no_loader_reads_is_ignored(sealed: Path, name: str) -> None:
    digest = store.verify(sealed).digest
    (sealed / name).parent.mkdir(parents=True, exist_ok=True)
    (sealed / name).write_text("x")
    assert store.verify(sealed).digest == digest


@pytest.mark.parametrize("name", KEPT)
def test_other_files_are_to_be_removed(sealed: Path, name: str) -> None:
    path = sealed / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    command = re.escape(f"Remove what does not belong there: rm {quote(str(path))}")
    with pytest.raises(IntegrityError, match=command):
        store.verify(sealed)


def test_what_is_ignored_is_not_sealed(tmp_path: Path) -> None:
    final = tmp_path / "a"
    with store.stage(final) as folder:
        for name in ("weights.bin", ".DS_Store"):
            (folder / name).write_text(name)
        store.seal(folder, manifest())
        store.publish(folder, final)
    assert [file.path for file in store.verify(final).files] == ["weights.bin"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_are_refused(sealed: Path, tmp_path: Path, link: object) -> None:
    outside = tmp_path / "outside"
    (sealed / "weights.bin").rename(outside)
    link(outside, sealed / "weights.bin")  # type: ignore[operator]
    with pytest.raises(IntegrityError, match="is a link"):
        store.verify(sealed)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"files": []},
        {"surprise": 1},
        {"files": [{"path": "../outside", "size_bytes": 1, "sha256": "0"}]},
    ],
)
def test_an_edited_manifest_is_refused(sealed: Path, change: dict[str, object]) -> None:
    path = sealed / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(IntegrityError):
        store.verify(sealed)


def test_paths_out_of_the_folder_are_refused(sealed: Path) -> None:
    path = sealed / "manifest.json"
    told = store.read_manifest(sealed)
    file = told.files[0].model_copy(update={"path": "../outside"})
    path.write_bytes(told.model_copy(update={"files": (file,)}).canonical())
    with pytest.raises(IntegrityError):
        store.verify(sealed)


def test_a_build_that_fails_leaves_what_was_there(sealed: Path) -> None:
    def fail_half_way() -> None:
        with store.stage(sealed) as folder:
            (folder / "half").write_text("written")
            raise ZeroDivisionError

    before = store.verify(sealed).digest
    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert store.verify(sealed).digest == before
    assert sorted(path.name for path in sealed.parent.iterdir()) == [
        ".onnx-int8.lock",
        "onnx-int8",
    ]


def test_a_killed_build_is_cleared_by_the_next(sealed: Path) -> None:
    stale = files.partial_of(sealed)
    stale.mkdir()
    with store.stage(sealed):
        assert not stale.exists()


def test_two_builds_of_one_place(sealed: Path) -> None:
    with (
        store.stage(sealed),
        pytest.raises(BusyError, match="another build"),
        store.stage(sealed),
    ):
        pass


def test_publish_replaces_and_find_lists(sealed: Path) -> None:
    with store.stage(sealed) as folder:
        (folder / "new").write_text("new")
        store.seal(folder, manifest())
        store.publish(folder, sealed)
    assert [file.path for file in store.verify(sealed).files] == ["new"]
    assert lookup.find(sealed.parent) == [sealed]
    assert lookup.find(sealed) == [sealed]


def test_a_report_being_written_is_no_damage(sealed: Path) -> None:
    (sealed / f".report.json.partial-{'0' * 32}").write_text("{")
    store.verify(sealed)
    (sealed / ".report.json.partial-x").write_text("{")
    with pytest.raises(IntegrityError, match="not in the manifest"):
        store.verify(sealed)


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="is not an artifact"):
        store.verify(tmp_path)
