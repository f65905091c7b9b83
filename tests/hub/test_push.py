"""Pushing: one commit, whole or not at all, whatever breaks; and nothing that did not pass."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import _http

from exporter.artifact.store import read_manifest
from exporter.errors import HubError, IntegrityError, RecipeError
from exporter.hub import push
from exporter.hub.push import Pushed, Way, plan_push
from exporter.system.progress import silent
from tests.support import faulty, passing
from tests.support.faulty import Pushing, Record
from tests.support.hub import FAULTS, File, Hub, Repo, Request, refuse
from tests.support.hub.api import Api

SIDECAR_FILES = {"manifest.json", "report.json", "report.html", "predictions.jsonl", "README.md"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return passing.make(tmp_path / "artifacts" / "speech" / "onnx-int8")


def pushed(path: Path, **way: Any) -> Pushed:
    (one,) = push.push(plan_push(path, None, None), Way(**way), silent)
    return one


@contextmanager
def own_client(asked: list[str]) -> Iterator[Callable[[], bool]]:
    """A client as a program may give one to the library, which notes what it is asked."""
    library: Any = _http
    newer = hasattr(library, "set_client_factory")
    name = "_GLOBAL_CLIENT_FACTORY" if newer else "_GLOBAL_BACKEND_FACTORY"
    configure = library.set_client_factory if newer else library.configure_http_backend
    before = getattr(library, name)

    def ours() -> Any:
        client = before()
        ask = client.request

        def request(*what: Any, **how: Any) -> Any:
            asked.append(str(how.get("url") or what[1]))
            return ask(*what, **how)

        client.request = request
        return client

    configure(ours)
    try:
        yield lambda: getattr(library, name) is ours
    finally:
        configure(before)


def test_one_commit_brings_everything(loopback: Hub, folder: Path) -> None:
    one = pushed(folder)
    repo = loopback.repos["org/speech"]
    assert repo.private
    sealed = {file.path for file in read_manifest(folder).files}
    assert set(repo.files) == sealed | SIDECAR_FILES | {"wer.svg", ".gitattributes"}
    for name in repo.files.keys() - {".gitattributes"}:
        assert repo.files[name].data == (folder / name).read_bytes(), name
    assert len(repo.commits) == 2
    digest = read_manifest(folder).digest[:12]
    assert repo.commits[one.commit].title == f"speech onnx-int8 (sha256:{digest})"
    assert repo.refs["refs/tags/" + str(one.tag)] == one.commit
    assert one.tag == f"sha256-{digest}"
    assert one.url == f"{loopback.endpoint}/org/speech/tree/{one.commit}"


def test_what_a_file_manager_left_stays_here(loopback: Hub, folder: Path) -> None:
    for name in (".DS_Store", ".git/HEAD", "._config.json", ".cache/huggingface/x.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("private")
    pushed(folder)
    names = loopback.repos["org/speech"].files.keys()
    sealed = {file.path for file in read_manifest(folder).files}
    assert set(names) == sealed | SIDECAR_FILES | {"wer.svg", ".gitattributes"}


def test_pushing_again_changes_nothing(loopback: Hub, folder: Path) -> None:
    first = pushed(folder)
    repo, count = loopback.repos["org/speech"], len(loopback.requests)
    again = pushed(folder)
    assert (first.changed, again.changed) == (True, False)
    assert (again.commit, again.tag) == (first.commit, first.tag)
    assert len(repo.commits) == 2
    asked = [(one.method, one.path.split("/")[4]) for one in loopback.requests[count:]]
    assert asked == [("GET", "speech"), ("POST", "speech"), ("GET", "speech")]


def test_a_new_report_is_a_new_commit_under_the_same_tag(loopback: Hub, folder: Path) -> None:
    first = pushed(folder)
    passing.judged(folder, created="2026-02-02T00:00:00+00:00")
    again = pushed(folder)
    repo = loopback.repos["org/speech"]
    assert again.commit != first.commit
    assert repo.names("tags") == {str(first.tag): first.commit}
    assert b"2026-02-02" in repo.files["report.json"].data


def test_files_of_the_artifact_before_go_and_others_stay(loopback: Hub, folder: Path) -> None:
    passing.make(folder, more={"old.onnx_data": b"old" * 9})
    pushed(folder)
    repo = loopback.repos["org/speech"]
    theirs = repo.files | {"LICENSE": File(b"mine", False), "notes.txt": File(b"mine", False)}
    repo.add("refs/heads/main", "by hand", theirs)
    passing.make(folder, seed=7)
    pushed(folder)
    assert "old.onnx_data" not in repo.files
    assert {"LICENSE", "notes.txt"} <= set(repo.files)


def test_a_repository_of_something_else_is_left_alone(loopback: Hub, folder: Path) -> None:
    repo = loopback.api.create("org/speech", private=True)
    repo.add("refs/heads/main", "weights", {"model.safetensors": File(b"theirs", True)})
    with pytest.raises(RecipeError, match=r"holds files of no artifact \(model\.safetensors\)"):
        pushed(folder)
    repo.add("refs/heads/main", "other", {"manifest.json": File(b"[]", False)})
    with pytest.raises(RecipeError, match=r"holds files of no artifact \(manifest\.json\)"):
        pushed(folder)
    assert len(repo.commits) == 3


def test_what_is_to_be_private_does_not_go_public(loopback: Hub, folder: Path) -> None:
    repo = loopback.api.create("org/speech")
    with pytest.raises(RecipeError, match="org/speech is public"):
        pushed(folder)
    assert len(repo.commits) == 1
    list(push.push(plan_push(folder, None, False), Way(), silent))
    assert len(repo.commits) == 2


def test_a_branch_is_made_where_there_is_none(loopback: Hub, folder: Path) -> None:
    one = pushed(folder, revision="int8")
    repo = loopback.repos["org/speech"]
    assert repo.names("heads")["int8"] == one.commit
    assert set(repo.files) == {".gitattributes"}


def test_a_pull_request_is_opened_once(loopback: Hub, folder: Path) -> None:
    repo = loopback.api.create("org/speech", private=True)
    one = pushed(folder, pull_request=True)
    again = pushed(folder, pull_request=True)
    assert one.pull_request == again.pull_request == f"{loopback.endpoint}/org/speech/discussions/1"
    assert (one.changed, again.changed, one.tag) == (True, False, None)
    assert list(repo.names("pr")) == ["1"]
    assert set(repo.files) == {".gitattributes"}
    assert "encoder_model.onnx" in repo.commits[repo.refs["refs/pr/1"]].files


def test_somebody_else_writes_at_the_same_moment(loopback: Hub, folder: Path) -> None:
    repo = loopback.api.create("org/speech", private=True)

    def meddle(_number: int, asked: Request) -> None:
        if "/commit/" in asked.path and "LICENSE" not in repo.files:
            theirs = repo.files | {"LICENSE": File(b"theirs", False)}
            repo.add("refs/heads/main", "theirs", theirs)

    loopback.fault = meddle
    one = pushed(folder)
    titles = [commit.title for commit in repo.commits.values()]
    assert titles[:2] == ["initial commit", "theirs"]
    assert len(titles) == 3
    assert repo.refs["refs/heads/main"] == one.commit
    assert repo.files["LICENSE"].data == b"theirs"


def test_somebody_who_never_stops_writing_is_told(loopback: Hub, folder: Path) -> None:
    repo = loopback.api.create("org/speech", private=True)

    def meddle(number: int, asked: Request) -> None:
        if "/commit/" in asked.path:
            repo.add("refs/heads/main", f"theirs {number}", repo.files)

    loopback.fault = meddle
    with pytest.raises(HubError, match="others keep changing org/speech"):
        pushed(folder)
    assert set(repo.files) == {".gitattributes"}


@pytest.mark.parametrize(
    ("way", "standing"),
    [
        pytest.param("main", False, marks=pytest.mark.sweep, id="main-new"),
        pytest.param("main", True, id="main-replacing"),
        pytest.param("request", False, id="request-new"),
        pytest.param("request", True, marks=pytest.mark.sweep, id="request-replacing"),
    ],
)
def test_every_request_may_break_in_every_way(
    loopback: Hub, tmp_path: Path, way: str, standing: bool, record_property: Record
) -> None:
    count = faulty.survive_one(Pushing(loopback, tmp_path, way, standing=standing), FAULTS)
    faulty.prove(record_property, "P10", count, "every first push arrived")


def test_a_hub_that_goes_away_has_the_old_files_or_the_new(
    loopback: Hub, tmp_path: Path, record_property: Record
) -> None:
    pushing = Pushing(loopback, tmp_path, "main", standing=True)
    count = faulty.cut_off_and_again(pushing, ["after"])
    faulty.prove(record_property, "P9", count, "old or new, then one commit")


@pytest.mark.parametrize("how", ["silence", "trickle"])
@pytest.mark.parametrize("what", ["revision", "batch", "storage", "commit", "tag"])
def test_a_hub_that_says_nothing_is_given_up(
    loopback: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    how: str,
    record_property: Record,
) -> None:
    monkeypatch.setenv("EXPORTER_HUB_TIMEOUT", "0.1")
    loopback.fault = lambda _, asked: how if what in asked.path else None
    started = time.monotonic()
    with pytest.raises(HubError, match=r"does not answer \(3 requests, 0\.1 s each\)"):
        pushed(folder)
    took = time.monotonic() - started
    faulty.prove(record_property, "P11", 1, f"given up within {ceil(took)} s, at limits of 0.1 s")


@pytest.mark.parametrize("asked", ["never", "-1", "0", "nan", "1e9"])
def test_a_time_limit_that_is_none(
    loopback: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("EXPORTER_HUB_TIMEOUT", asked)
    with pytest.raises(RecipeError, match="EXPORTER_HUB_TIMEOUT is"):
        pushed(folder)
    assert not loopback.requests


def test_a_client_of_the_callers_own_is_used_and_stays(loopback: Hub, folder: Path) -> None:
    asked: list[str] = []
    with own_client(asked) as unchanged:
        pushed(folder)
        assert unchanged()
    assert any("/commit/" in url for url in asked)


def test_a_hub_that_is_busy_for_ever_is_given_up(
    loopback: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = "Cannot create repo: another conflicting operation is in progress"
    monkeypatch.setattr(Api, "create", lambda *_: refuse(409, busy))
    with pytest.raises(HubError, match="breaks off"):
        pushed(folder)
    assert sum(one.path == "/api/repos/create" for one in loopback.requests) == 4


@pytest.mark.parametrize(
    ("status", "told"),
    [(403, "does not let this token write"), (401, "refuses the token"), (500, "HTTP 500")],
)
def test_what_the_hub_refuses_is_explained(
    loopback: Hub, folder: Path, status: int, told: str
) -> None:
    loopback.fault = lambda _, asked: status if "/commit/" in asked.path else None
    with pytest.raises(HubError, match=told) as caught:
        pushed(folder)
    assert len(str(caught.value).splitlines()) == 2
    assert len(loopback.repos["org/speech"].commits) == 1


def test_without_a_token_nothing_is_asked(
    loopback: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(HubError, match="needs a token with write access"):
        pushed(folder)
    assert not loopback.requests


def test_a_file_that_changes_on_its_way_is_not_pushed(loopback: Hub, tmp_path: Path) -> None:
    folder = passing.make(tmp_path / "onnx-int8", more={"big.onnx_data": bytes(11_000_000)})
    plans = plan_push(folder, None, None)
    with (folder / "big.onnx_data").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(IntegrityError, match=r"big\.onnx_data changed after it was verified"):
        list(push.push(plans, Way(), silent))
    assert len(loopback.repos["org/speech"].commits) == 1


def test_bytes_that_arrive_otherwise_are_told_and_not_tagged(
    loopback: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Repo.add

    def flipped(repo: Repo, ref: str, title: str, files: dict[str, File]) -> str:
        if "config.json" in files:
            files = files | {"config.json": File(b"{ }\n", False)}
        return add(repo, ref, title, files)

    monkeypatch.setattr(Repo, "add", flipped)
    with pytest.raises(IntegrityError, match=r"config\.json are not what was pushed"):
        pushed(folder)
    assert not loopback.repos["org/speech"].names("tags")


def test_several_artifacts_get_a_repository_each(loopback: Hub, tmp_path: Path) -> None:
    both = passing.RECIPE.replace("{kind: onnx-int8}", "{kind: onnx-int8}, {kind: aoti}")
    for name in ("onnx-int8", "aoti"):
        passing.make(tmp_path / "speech" / name, recipe=both)
    repos = [plan.repo for plan in plan_push(tmp_path / "speech", None, None)]
    assert repos == ["org/speech-aoti", "org/speech-onnx-int8"]
    assert [p.repo for p in plan_push(tmp_path / "speech", "me/it", None)] == [
        "me/it-aoti",
        "me/it-onnx-int8",
    ]
    one = tmp_path / "speech" / "aoti"
    assert [p.repo for p in plan_push(one, None, None)] == ["org/speech-aoti"]
    assert [p.repo for p in plan_push(one, "me/it", None)] == ["me/it"]
    passing.make(one)
    with pytest.raises(RecipeError, match="are of different recipes"):
        plan_push(tmp_path / "speech", None, None)


@pytest.mark.parametrize("repo", ["name", "a/b/c", "a/b--c", "a/b@c", "../x", "a/" + "b" * 97])
def test_an_address_that_is_none(folder: Path, repo: str) -> None:
    with pytest.raises(RecipeError, match="is not a repository"):
        plan_push(folder, repo, None)


def test_large_files_are_told_by_bytes(loopback: Hub, folder: Path) -> None:
    told: list[tuple[str, float | None]] = []
    list(push.push(plan_push(folder, None, None), Way(), lambda *step: told.append(step)))
    sent = [(what, done) for what, done in told if ": sending " in what]
    assert sent[-1][1] == 1.0
    assert [done for _, done in sent] == sorted(done or 0 for _, done in sent)


def test_the_card_is_left_beside_the_artifact(loopback: Hub, folder: Path) -> None:
    pushed(folder)
    assert (folder / "README.md").read_bytes() == loopback.repos["org/speech"].files[
        "README.md"
    ].data
    assert json.loads((folder / "report.json").read_text())["verdict"] == "passed"
