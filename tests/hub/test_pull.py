"""Pulling: what comes from the Hub is an artifact to the last byte, or it is not there at all."""

import json
import time
from math import ceil
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from huggingface_hub import constants

from exporter.artifact import build_registry, store, trust
from exporter.artifact.store import read_manifest
from exporter.cli import main
from exporter.errors import HubError, IntegrityError, RecipeError, TrustError
from exporter.hub import pull, push
from exporter.recognition import load
from exporter.system.progress import silent
from tests.support import faulty, passing
from tests.support.faulty import Pulling, Record
from tests.support.hub import File, Hub, Repo
from tests.support.sealed import write_package

WEIGHTS = "decoder_model_merged.onnx_data"


@pytest.fixture
def repo(loopback: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository with one artifact, and an empty folder to be in."""
    push_all(passing.make(tmp_path / "origin" / "onnx-int8"))
    loopback.requests.clear()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "kept"))
    return loopback.repos["org/speech"]


def push_all(folder: Path) -> None:
    list(push.push(push.plan_push(folder, None, None), push.Way(), silent))


def change(repo: Repo, **files: bytes) -> None:
    """Somebody edits files on the Hub; `__` in a name stands for its dot."""
    new = dict(repo.files)
    for name, data in files.items():
        path = name.replace("__", ".")
        new[path] = File(data, repo.files[path].large)
    repo.add("refs/heads/main", "edited", new)


def test_it_is_what_was_pushed(repo: Repo, loopback: Hub, tmp_path: Path) -> None:
    got = pull.pull("org/speech", Path("artifacts"))
    assert got.path == Path("artifacts/org/speech")
    assert (got.fresh, got.commit) == (True, repo.refs["refs/heads/main"])
    origin = tmp_path / "origin" / "onnx-int8"
    assert store.verify(got.path) == store.verify(origin)
    names = {path.name for path in got.path.iterdir()}
    assert names == {path.name for path in origin.iterdir()}
    assert all((got.path / name).read_bytes() == (origin / name).read_bytes() for name in names)
    count = len(loopback.requests)
    assert not pull.pull("org/speech", Path("artifacts")).fresh
    assert len(loopback.requests) == count + 1


def test_a_tag_names_the_bytes(repo: Repo, tmp_path: Path) -> None:
    digest = read_manifest(tmp_path / "origin" / "onnx-int8").digest
    passing.make(tmp_path / "origin" / "onnx-int8", seed=7)
    list(
        push.push(push.plan_push(tmp_path / "origin" / "onnx-int8", None, None), push.Way(), silent)
    )
    old = pull.pull(f"org/speech@sha256-{digest[:12]}", Path("old"))
    new = pull.pull("org/speech", Path("new"))
    assert old.manifest.digest == digest != new.manifest.digest


def moved_tag(repo: Repo, tmp_path: Path) -> tuple[str, str]:
    """Somebody moves a digest's tag to another artifact; both digests."""
    old = read_manifest(tmp_path / "origin" / "onnx-int8").digest
    push_all(passing.make(tmp_path / "origin" / "onnx-int8", seed=7))
    repo.refs[f"refs/tags/sha256-{old[:12]}"] = repo.commit
    return old, read_manifest(tmp_path / "origin" / "onnx-int8").digest


def test_a_tag_that_was_moved_is_refused_everywhere(
    repo: Repo, loopback: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = pull.fetch_to_cache(
        f"org/speech@sha256-{read_manifest(tmp_path / 'origin' / 'onnx-int8').digest[:12]}"
    )
    old, new = moved_tag(repo, tmp_path)
    before = read_manifest(kept)
    name = f"org/speech@sha256-{old[:12]}"
    for command in (
        ["pull", name],
        ["transcribe", name, "clip.wav"],
        ["validate", name],
        ["bench", name],
        ["doctor", name],
    ):
        code, told = main(command), capfd.readouterr().err
        if command[0] in ("pull", "transcribe", "doctor"):
            assert (code, "its tag was moved" in told) == (5, True), (command, told)
        assert code not in (0, 1), command
    assert read_manifest(kept) == before
    assert not Path("artifacts/org/speech").exists()
    # Also where the other one is in place already, and where the Hub cannot be asked.
    pull.pull("org/speech", Path("artifacts"))
    with pytest.raises(IntegrityError, match="its tag was moved"):
        pull.pull(name, Path("artifacts"), force=True)
    for place in kept.iterdir():
        place.unlink()
    kept.rmdir()
    pull.fetch_to_cache("org/speech").rename(kept)
    loopback.fault = lambda _number, _asked: 503
    with pytest.raises(IntegrityError, match=f"digest {new[:12]}"):
        pull.fetch_to_cache(name)


def test_a_whole_digest_is_a_revision_too(repo: Repo, tmp_path: Path) -> None:
    digest = read_manifest(tmp_path / "origin" / "onnx-int8").digest
    for revision in (digest, digest[:20], digest[:12].upper()):
        got = pull.pull(f"org/speech@sha256-{revision}", tmp_path / revision)
        assert got.manifest.digest == digest
    wrong = digest[:12] + "0" * 52
    with pytest.raises(IntegrityError, match="its tag was moved"):
        pull.pull(f"org/speech@sha256-{wrong}", tmp_path / "wrong")
    short = "0" if digest[0] != "0" else "1"
    repo.refs[f"refs/tags/sha256-{short}"] = repo.commit
    with pytest.raises(IntegrityError, match="its tag was moved"):
        pull.pull(f"org/speech@sha256-{short}", tmp_path / "short")


def test_a_commit_is_that_commit(repo: Repo, loopback: Hub, tmp_path: Path) -> None:
    asked = repo.commit
    push_all(passing.make(tmp_path / "origin" / "onnx-int8", seed=7))
    newer, repo.commits[asked] = repo.commit, repo.commits[repo.commit]
    repo.refs[f"refs/heads/{asked}"] = newer
    with pytest.raises(IntegrityError, match="with another commit"):
        pull.pull(f"org/speech@{asked}", tmp_path / "other")


def test_another_artifact_is_replaced_only_by_force(
    repo: Repo, capfd: pytest.CaptureFixture[str]
) -> None:
    other = passing.make(Path("artifacts/org/speech"), seed=9)
    assert main(["pull", "org/speech"]) == 2
    assert "artifacts/org/speech holds something else" in capfd.readouterr().err
    assert main(["pull", "org/speech", "--force", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["digest"] == read_manifest(other).digest
    assert told["fresh"]
    assert main(["pull", "org/speech"]) == 0
    assert "already there, verified; org/speech at " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("speech", RecipeError, "is not a Hub id"),
        ("org/none", HubError, "has no model org/none"),
        ("org/speech@v9", HubError, "has no revision 'v9'"),
        ("org/empty", IntegrityError, "holds no artifact"),
    ],
)
def test_what_is_not_there(
    repo: Repo, loopback: Hub, name: str, error: type[Exception], told: str
) -> None:
    loopback.api.create("org/empty")
    with pytest.raises(error, match=told):
        pull.pull(name, Path("artifacts"))
    assert not list(Path().rglob("manifest.json"))


def refused(error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        pull.pull("org/speech", Path("artifacts"))
    assert not Path("artifacts/org/speech").exists()
    assert not list(Path("artifacts").rglob("*.partial-*"))


def test_a_flipped_bit_in_the_storage(repo: Repo, loopback: Hub) -> None:
    oid = repo.files["encoder_model.onnx"].oid
    whole = loopback.large[oid]
    loopback.large[oid] = whole[:-1] + bytes([whole[-1] ^ 1])
    refused(HubError, r"encoder_model\.onnx of org/speech arrived damaged")
    loopback.large[oid] = whole
    loopback.requests.clear()
    assert pull.pull("org/speech", Path("artifacts")).fresh
    bodies = {one.path for one in loopback.requests if one.method == "GET"}
    assert f"/storage/{oid}" in bodies
    assert f"/storage/{repo.files[WEIGHTS].oid}" not in bodies  # that one is not fetched twice


def test_files_that_changed_places(repo: Repo, loopback: Hub) -> None:
    first, second = repo.files["encoder_model.onnx"], repo.files[WEIGHTS]
    swapped = repo.files | {"encoder_model.onnx": second, WEIGHTS: first}
    repo.add("refs/heads/main", "swapped", swapped)
    loopback.requests.clear()
    refused(IntegrityError, "it is no artifact")
    assert not [one for one in loopback.requests if one.path.startswith("/storage")]


def test_a_small_file_of_the_same_size(repo: Repo) -> None:
    change(repo, config__json=b"[]\n")
    refused(IntegrityError, r"config\.json does not match the manifest")


def test_an_edited_manifest(repo: Repo) -> None:
    change(repo, manifest__json=repo.files["manifest.json"].data + b"\n")
    refused(IntegrityError, "was edited after the build")


def test_a_manifest_that_leads_outside(repo: Repo) -> None:
    told = json.loads(repo.files["manifest.json"].data)
    told["files"][0]["path"] = "../../../evil"
    data = json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
    change(repo, manifest__json=data)
    refused(IntegrityError, "leads outside")
    assert not list(Path("..").rglob("evil"))


def test_a_download_that_is_cut_is_taken_up(repo: Repo, loopback: Hub) -> None:
    cuts = iter(["cut", "cut"])

    def cut(_number: int, asked: Any) -> str | None:
        return next(cuts, None) if asked.path.startswith("/storage") else None

    loopback.fault = cut
    assert pull.pull("org/speech", Path("artifacts")).fresh


def test_a_name_of_the_hub_is_opened_from_the_cache(
    repo: Repo, loopback: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = pull.fetch_to_cache("org/speech")
    assert first == tmp_path / "kept" / "pulled" / "org" / "speech" / "main"
    loopback.fault = lambda _number, _asked: 503
    assert pull.fetch_to_cache("org/speech") == first
    assert "using the cached org/speech" in caplog.text
    with pytest.raises(HubError, match="HTTP 503"):
        pull.fetch_to_cache("org/other")
    loopback.fault = lambda _number, _asked: None
    digest = read_manifest(first).digest
    passing.make(tmp_path / "origin" / "onnx-int8", seed=7)
    list(
        push.push(push.plan_push(tmp_path / "origin" / "onnx-int8", None, None), push.Way(), silent)
    )
    assert read_manifest(pull.fetch_to_cache("org/speech")).digest != digest


def test_a_missing_folder_is_no_name_of_the_hub(repo: Repo, loopback: Hub) -> None:
    Path("artifacts").mkdir()
    for path in ("artifacts/speech", "./org/speech", "/org/speech", "org/speech/onnx-int8"):
        with pytest.raises(IntegrityError, match="is not an artifact"):
            load.load(path)
    assert not loopback.requests


def test_a_damaged_one_is_pulled_again_and_never_loaded(repo: Repo, loopback: Hub) -> None:
    def damage(folder: Path) -> None:
        data = (folder / "encoder_model.onnx").read_bytes()
        (folder / "encoder_model.onnx").write_bytes(data[:-1] + b"\1")

    place = pull.fetch_to_cache("org/speech")
    damage(place)
    assert store.verify(pull.fetch_to_cache("org/speech"))
    damage(place)
    loopback.fault = lambda _number, _asked: 503
    with pytest.raises(IntegrityError, match=r"encoder_model\.onnx does not match the manifest"):
        load.load("org/speech")
    loopback.fault = lambda _number, _asked: None
    damage(pull.pull("org/speech", Path("artifacts")).path)
    with pytest.raises(IntegrityError, match=r"encoder_model\.onnx does not match"):
        pull.pull("org/speech", Path("artifacts"))
    assert pull.pull("org/speech", Path("artifacts"), force=True).fresh


@pytest.mark.parametrize("name", ["org/speech@..", "org/..", "../speech", "org/speech@a/../b"])
def test_names_that_climb_are_none(repo: Repo, loopback: Hub, name: str) -> None:
    with pytest.raises(RecipeError, match="is not a Hub id"):
        pull.pull(name, Path("artifacts"))
    assert not loopback.requests


def test_what_was_opened_is_kept_in_sight(
    repo: Repo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = pull.fetch_to_cache("org/speech")
    assert main(["cache"]) == 0
    assert "org/speech at main, pulled" in capfd.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert not place.exists()


@pytest.fixture
def program(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository whose artifact holds native code, which this machine did not build."""
    monkeypatch.setenv("EXPORTER_STATE", str(tmp_path / "state"))
    write_package(tmp_path / "encoder.pt2")
    package = {"encoder.pt2": (tmp_path / "encoder.pt2").read_bytes()}
    recipe = passing.RECIPE.replace("org/speech", "org/program")
    push_all(passing.make(tmp_path / "origin" / "program", recipe=recipe, more=package))
    return "org/program"


def weights_asked(hub: Hub) -> list[str | None]:
    return [one.file for one in hub.requests if one.path.startswith("/storage/")]


def test_code_that_was_pulled_is_not_trusted_for_that(
    program: str, loopback: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    loopback.requests.clear()
    with pytest.raises(TrustError, match=r"org/program holds code .* machine \(encoder\.pt2\)"):
        load.load(program)
    assert weights_asked(loopback) == []
    got = pull.pull(program, Path("artifacts"))
    assert "not built here (encoder.pt2): loading needs --trust" in caplog.text
    assert not build_registry.built_here(got.manifest)
    with pytest.raises(TrustError):
        load.load(got.path)
    assert (
        trust.verify_and_authorize(pull.fetch_to_cache(program, trust=True), trust=True)
        == got.manifest
    )
    with pytest.raises(TrustError):
        load.load(program)
    build_registry.record(got.manifest)  # where the very same was built
    assert trust.verify_and_authorize(pull.fetch_to_cache(program), trust=False) == got.manifest


def test_transcribe_refuses_before_anything_is_fetched(
    program: str, loopback: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    loopback.requests.clear()
    assert main(["transcribe", program, "a.flac"]) == 5
    assert capfd.readouterr().err.startswith("error: org/program holds code that was not built")
    assert weights_asked(loopback) == []
    assert main(["transcribe", "org/none", "a.flac"]) == 7
    assert main(["transcribe", "none", "a.flac"]) == 5


def test_transcribe_pulls_before_its_child_starts(
    repo: Repo, loopback: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The child has neither the token nor the Hub; what it opens lies in the cache."""
    recipe = passing.RECIPE.replace("org/speech", "org/odd")
    push_all(passing.make(tmp_path / "odd", recipe=recipe, more={"encoder.pt2": b"no package"}))
    loopback.requests.clear()
    assert main(["transcribe", "org/odd", "a.flac", "--trust"]) == 5
    place = tmp_path / "kept" / "pulled" / "org" / "odd" / "main"
    assert capfd.readouterr().err.startswith(f"error: {place / 'encoder.pt2'}")
    assert store.verify(place)
    assert {one.token for one in loopback.requests if one.host != "localhost"} == {loopback.token}


def test_every_request_of_a_pull_may_break(
    loopback: Hub, tmp_path: Path, record_property: Record
) -> None:
    pulling = Pulling(loopback, tmp_path)
    count = faulty.pull_through_one(pulling, ["cut", "flip", "etag"])
    faulty.prove(record_property, "P15", count, "every first pull arrived")


def test_a_pull_that_broke_off_fetches_only_what_is_lacking(
    loopback: Hub, tmp_path: Path, record_property: Record
) -> None:
    count = faulty.pull_again_after(Pulling(loopback, tmp_path), ["before"])
    faulty.prove(record_property, "P15", count, "nothing whole was fetched twice")


@pytest.mark.parametrize("name", ["config.json", "encoder_model.onnx", "manifest.json"])
def test_what_was_damaged_in_the_cache_is_fetched_anew(
    loopback: Hub, tmp_path: Path, name: str
) -> None:
    pulling = Pulling(loopback, tmp_path)
    (blob,) = (tmp_path / "cache").glob(f"models--org--speech/blobs/{pulling.repo.files[name].oid}")
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    rmtree(tmp_path / "pulled")
    loopback.requests.clear()
    pulling.again()
    assert pulling.bodies() == [name]


def test_files_whose_bytes_changed_places_in_the_storage(repo: Repo, loopback: Hub) -> None:
    first, second = (repo.files[name].oid for name in ("encoder_model.onnx", WEIGHTS))
    whole = dict(loopback.large)
    loopback.large |= {first: whole[second][: len(whole[first])], second: whole[second]}
    refused(HubError, r"encoder_model\.onnx of org/speech arrived damaged twice")
    loopback.large = whole
    assert pull.pull("org/speech", Path("artifacts")).fresh


@pytest.mark.parametrize("how", ["silence", "trickle"])
@pytest.mark.parametrize("what", ["/api/models", "/resolve/", "/storage/"])
def test_a_hub_that_says_nothing_is_given_up(
    repo: Repo,
    loopback: Hub,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    how: str,
    record_property: Record,
) -> None:
    monkeypatch.setenv("EXPORTER_HUB_TIMEOUT", "0.1")
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.1)
    started = time.monotonic()
    with loopback.failing(how, lambda asked: what in asked.path):
        refused(HubError, r"does not answer \(3 requests, ")
    took = time.monotonic() - started
    faulty.prove(record_property, "P11", 1, f"given up within {ceil(took)} s, at limits of 0.1 s")
