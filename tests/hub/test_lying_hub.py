"""A server that lies: headers that would become paths, lists that lead outside, endless replies."""

import gzip
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.checkpoint.fetch import fetch
from exporter.cli import main
from exporter.doctor import fetch as doctor
from exporter.errors import EXIT_CODES, ExporterError, HubError, IntegrityError
from exporter.hub import pull, push
from exporter.hub.download import list_repository, remote_header
from exporter.system.progress import silent
from tests.support import passing
from tests.support.hub import Answer, Hub, Request, of_folder, reads_large
from tests.support.watched import memory_meter

Lie = Callable[[Answer], Answer]
HEADERS = ("ETag", "X-Linked-Etag", "X-Repo-Commit")
SHA = "0123456789abcdef" * 4


@pytest.fixture
def roads(
    loopback: Hub, tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Callable[[], object]]:
    """Every way to fetch something, from repositories that are in order."""
    folder = passing.make(tmp_path / "origin" / "onnx-int8")
    list(push.push(push.plan_push(folder, None, None), push.Way(), silent))
    newer = passing.make(tmp_path / "newer" / "onnx-int8", seed=7)
    loopback.api.create("org/whisper", files=of_folder(tiny_whisper))
    loopback.api.create("datasets/org/clips", files=of_folder(tiny_whisper))
    loopback.requests.clear()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("EXPORTER_STATE", str(tmp_path / "state"))
    return {
        "pull": lambda: pull.pull("org/speech", Path("artifacts"), force=True),
        "load": lambda: pull.fetch_to_cache("org/speech"),
        "checkpoint": lambda: fetch("org/whisper", None),
        "doctor": lambda: doctor.brought("org/whisper", None, silent),
        "dataset": lambda: list_repository("org/clips", None, silent, repo_type="dataset").bring(
            "config.json"
        ),
        "header": lambda: remote_header("org/whisper", "main", "model.safetensors"),
        "push": lambda: list(push.push(push.plan_push(newer, None, None), push.Way(), silent)),
    }


def with_headers(told: dict[str, str]) -> Lie:
    return lambda answer: Answer(answer.status, answer.body, answer.headers | told)


def outside(tmp_path: Path) -> set[Path]:
    """Whatever is not in a place that is ours to write to."""
    ours = {"cache", "kept", "here", "origin", "newer"}
    return {path for path in tmp_path.rglob("*") if path.relative_to(tmp_path).parts[0] not in ours}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("road", ["pull", "load", "checkpoint", "doctor", "dataset", "push"])
def test_a_header_is_no_path(
    roads: dict[str, Callable[[], object]], loopback: Hub, tmp_path: Path, road: str, header: str
) -> None:
    """The journal's entry for a digest, at a path that a header tells."""
    entry = tmp_path / "state" / "built" / SHA
    for place in (f'"{entry}"', f'W/"../../../state/built/{SHA}"', f"{SHA}/../x", "", '"eeeeeeee"'):
        lie = with_headers({header: place})
        with (
            loopback.failing(lie, lambda asked: asked.method == "HEAD" and bool(asked.file)),
            pytest.raises(IntegrityError, match="which is no hash"),
        ):
            roads[road]()
        assert not outside(tmp_path)
        assert not list((tmp_path / "cache").rglob("x"))
    # Headers of a GET name nothing.
    with loopback.failing(lie, lambda asked: asked.method == "GET" and bool(asked.file)):
        assert exit_of(road, roads)[0] in (0, IntegrityError.exit_code)
    assert not outside(tmp_path)


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_names_other_bytes(
    roads: dict[str, Callable[[], object]], loopback: Hub, tmp_path: Path, header: str
) -> None:
    length = 40 if header == "X-Repo-Commit" else 64
    lie = with_headers({header: f'"{SHA[:length]}"'})
    with (
        loopback.failing(lie, lambda asked: asked.method == "HEAD" and bool(asked.file)),
        pytest.raises(IntegrityError, match="names other bytes than the Hub's list"),
    ):
        roads["checkpoint"]()
    assert not list((tmp_path / "cache").rglob(f"{SHA[:40]}*"))


def test_weak_and_bare_names_are_taken(
    roads: dict[str, Callable[[], object]], loopback: Hub
) -> None:
    for form in ('W/"{}"', "{}", '"{}"'):

        def lie(answer: Answer, form: str = form) -> Answer:
            bare = {n: t.strip('"') for n, t in answer.headers.items() if n.endswith("tag")}
            told = {name: form.format(text) for name, text in bare.items()}
            return Answer(answer.status, answer.body, answer.headers | told)

        with loopback.failing(lie):
            roads["pull"]()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sha": "../../state"}, IntegrityError),
        ({"sha": None}, IntegrityError),
        ({"rfilename": "../../../state/config.json"}, IntegrityError),
        ({"rfilename": "/tmp/config.json"}, IntegrityError),
        ({"rfilename": "a/./config.json"}, IntegrityError),
        ({"rfilename": "a" * 256}, IntegrityError),
        ({"rfilename": "\ud800.json"}, IntegrityError),
        ({"rfilename": "a\0b"}, IntegrityError),
        ({"rfilename": ["config.json"]}, IntegrityError),
        ({"blobId": "../../../../state/x", "lfs": None}, IntegrityError),
        ({"blobId": None, "lfs": None}, IntegrityError),
        ({"lfs": {"sha256": "../x", "size": 1, "pointerSize": 1}}, IntegrityError),
        ({"size": -1}, HubError),
        ({"size": "many"}, HubError),
        ({"size": None}, HubError),
        ({"size": 1 << 40}, ExporterError),
        ({"lfs": 5}, HubError),
        ({"siblings": 5}, HubError),
        ({"siblings": [None]}, HubError),
    ],
    ids=str,
)
def test_a_list_is_no_path(
    roads: dict[str, Callable[[], object]],
    loopback: Hub,
    tmp_path: Path,
    change: dict[str, Any],
    error: type[Exception],
) -> None:
    victim = tmp_path / "state" / "x"
    victim.parent.mkdir()
    victim.write_text("kept")

    def lie(answer: Answer) -> Answer:
        told = json.loads(answer.body)
        if "siblings" in told:
            of_all = change.keys() & {"sha", "siblings"}
            for one in [told] if of_all else told["siblings"]:
                one |= change
        return Answer(answer.status, json.dumps(told).encode(), answer.headers)

    for road in ("pull", "checkpoint", "doctor", "dataset", "push"):
        with (
            loopback.failing(lie, lambda asked: asked.path.startswith("/api/")),
            pytest.raises(error),
        ):
            roads[road]()
        assert victim.read_text() == "kept"
        assert outside(tmp_path) == {victim.parent, victim}


def pages(asked: Request) -> bool:
    return asked.path.startswith("/api/")


@pytest.mark.parametrize("road", ["pull", "checkpoint", "doctor", "dataset", "push"])
def test_a_compressed_list_is_not_unpacked(
    roads: dict[str, Callable[[], object]], loopback: Hub, road: str
) -> None:
    bomb = gzip.compress(b'{"siblings": [' + bytes(80_000_000))  # as 1.5 GB would do
    packed = {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}
    held = memory_meter()
    with (
        loopback.failing(lambda a: Answer(200, bomb, packed), pages),
        pytest.raises(HubError, match="answers in 'gzip'"),
    ):
        roads[road]()
    assert held() < 40_000_000


@pytest.mark.parametrize(
    ("road", "where"),
    [
        ("pull", pages),
        ("checkpoint", pages),
        ("header", lambda asked: bool(asked.file)),
        ("pull", lambda asked: asked.method == "GET" and asked.file == "manifest.json"),
        ("checkpoint", reads_large),
        ("push", pages),
    ],
)
def test_an_endless_reply_ends(
    roads: dict[str, Callable[[], object]],
    loopback: Hub,
    road: str,
    where: Callable[[Request], bool],
) -> None:
    held = memory_meter()
    with loopback.failing("endless", where), pytest.raises(HubError, match="more than the"):
        roads[road]()
    assert held() < 200_000_000


@pytest.mark.parametrize(
    ("road", "where"),
    [("pull", pages), ("checkpoint", reads_large), ("header", lambda asked: bool(asked.file))],
)
def test_a_reply_that_drips_is_given_up(
    roads: dict[str, Callable[[], object]],
    loopback: Hub,
    monkeypatch: pytest.MonkeyPatch,
    road: str,
    where: Callable[[Request], bool],
) -> None:
    monkeypatch.setenv("EXPORTER_HUB_TIMEOUT", "0.2")
    since = time.monotonic()
    with loopback.failing("drip", where), pytest.raises(HubError, match="does not answer"):
        roads[road]()
    assert time.monotonic() - since < 5


def test_redirects_have_an_end_and_no_body(
    roads: dict[str, Callable[[], object]], loopback: Hub
) -> None:
    held = memory_meter()
    for place in ("/org/whisper/resolve/main/config.json", loopback.endpoint + "/again"):
        turned = Answer(307, bytes(30_000_000), {"Location": place})
        with loopback.failing(lambda _, turned=turned: turned), pytest.raises(HubError):
            roads["checkpoint"]()
    assert held() < 200_000_000


def test_a_list_of_requests_has_an_end(
    roads: dict[str, Callable[[], object]], loopback: Hub, tmp_path: Path
) -> None:
    """Each page says that another one follows."""

    def lie(answer: Answer) -> Answer:
        one = json.loads(answer.body)["discussions"][0] | {"title": "another"}
        told = {"discussions": [one] * 100, "count": 10**9, "start": 0}
        return Answer(200, json.dumps(told).encode(), answer.headers)

    plans = push.plan_push(tmp_path / "newer" / "onnx-int8", None, None)
    way = push.Way(pull_request=True)
    list(push.push(plans, way, silent))
    with loopback.failing(lie, lambda asked: "/discussions" in asked.path):
        list(push.push(plans, way, silent))
    assert len([one for one in loopback.requests if "/discussions" in one.path]) < 20


WORDS: tuple[Any, ...] = (
    *("", "x", "../../../../x", "/x", "a" * 300, "\0", "\ud800", "refs/heads/main", "http://[::1"),
    *(None, True, -1, 0, 7, 10**30, 1e300, [], [[]], {}, {"a": []}, [None]),
)
TEXTS = (
    "",
    "-1",
    "0",
    "9" * 30,
    "x",
    "../../x",
    "/x",
    "bytes 0-1/x",
    "gzip",
    "chunked",
    "file:///x",
)
MUTATED = (
    *("ETag", "X-Linked-Etag", "X-Repo-Commit", "X-Linked-Size", "Content-Length", "Location"),
    *("Content-Range", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Retry-After"),
    *("X-Error-Code", "X-Error-Message", "X-Xet-Hash", "Link", "Set-Cookie", "Content-Disposition"),
)
STATUSES = (
    200,
    204,
    206,
    301,
    302,
    304,
    307,
    308,
    400,
    401,
    403,
    404,
    409,
    416,
    418,
    429,
    500,
    600,
)


def mutated(chance: random.Random, answer: Answer) -> Answer:
    """An answer with one thing in it that is not the Hub's."""
    how = chance.randrange(4)
    if how == 0:
        told = {chance.choice(MUTATED): chance.choice(TEXTS)}
        return Answer(answer.status, answer.body, answer.headers | told)
    if how == 1:
        return Answer(chance.choice(STATUSES), answer.body, answer.headers)
    if how == 2 and answer.body[:1] in (b"{", b"["):
        told = _changed(chance, json.loads(answer.body))
        return Answer(answer.status, json.dumps(told).encode(), answer.headers)
    body = chance.choice([b"", b"{}", b"[]", b"null", b"[" * 99_999, b"\xff", b'{"sha": 1e999}'])
    return Answer(answer.status, body, answer.headers)


def _changed(chance: random.Random, told: Any) -> Any:
    """A document with another value somewhere, or without one."""
    if chance.random() < 0.25 or not isinstance(told, dict | list) or not told:
        return chance.choice(WORDS)
    key = chance.choice(list(told)) if isinstance(told, dict) else chance.randrange(len(told))
    if chance.random() < 0.1:
        return {k: v for k, v in told.items() if k != key} if isinstance(told, dict) else told[1:]
    copy: Any = told.copy()
    copy[key] = _changed(chance, told[key])
    return copy


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(1, 4))]
)
def test_no_reply_is_a_bug(
    roads: dict[str, Callable[[], object]],
    loopback: Hub,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """A reply in a pull, a push or a download of a checkpoint is anything: an error of ours."""
    monkeypatch.setenv("EXPORTER_HUB_TIMEOUT", "0.15")
    chance = random.Random(seed)
    for number in range(60):  # as many commands
        road = chance.choice(["pull", "pull", "checkpoint", "checkpoint", "doctor", "push"])
        start, left = chance.randrange(14), chance.choice([1, 2, 9])
        first = len(loopback.requests) + start
        chosen = random.Random(f"{seed} {number}")

        def fault(asked_as: int, _asked: Request, first: int = first, left: int = left) -> Any:
            hit = first <= asked_as < first + left
            return (lambda answer: mutated(chosen, answer)) if hit else None  # noqa: B023

        loopback.fault = fault
        code, text = exit_of(road, roads)
        assert code in EXIT_CODES.keys() - {1}, (seed, number, text)
        assert len(text.splitlines()) <= 3, text
        loopback.fault = lambda _number, _asked: None
        if chance.random() < 0.5:
            replaced(tmp_path)
        assert not outside(tmp_path), (seed, number)
    capfd.readouterr()


def exit_of(road: str, roads: dict[str, Callable[[], object]]) -> tuple[int, str]:
    if road == "pull":
        return main(["pull", "org/speech", "--force"]), ""
    try:
        roads[road]()
    except ExporterError as error:
        return error.exit_code, str(error)
    return 0, ""


def replaced(tmp_path: Path) -> None:
    """The next command starts with an empty cache."""
    for name in ("cache", "kept", "here/artifacts"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
