"""Every request of ours is made within time limits, and repeated in one place only."""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from exporter.checkpoint.fetch import fetch
from exporter.doctor import fetch as doctor
from exporter.errors import ExporterError, HubError
from exporter.hub import client, pull, push
from exporter.hub.download import list_repository, remote_header
from exporter.system.progress import silent
from tests.support import passing
from tests.support.hub import File, Hub, Request
from tests.support.hub.api import Answer, Refused

ROOT = Path(client.__file__).parents[2]
TRIES = len(client.PAUSES_S) + 1
OLDER = huggingface_hub.__version__.startswith("0.")
# What of the library asks nobody; everything else is for the package that speaks with the Hub.
ASKS_NOBODY = {"huggingface_hub.constants", "huggingface_hub.errors"}


@pytest.fixture
def folder(loopback: Hub, tmp_path: Path) -> Path:
    """An artifact that is on the Hub already, and one to push instead; a dataset and weights."""
    old = passing.make(tmp_path / "onnx-int8")
    list(push.push(push.plan_push(old, None, None), push.Way(), silent))
    weights = {"model.safetensors": File(bytes(9), True), "config.json": File(b"{}", False)}
    loopback.api.create("org/weights", files=weights)
    loopback.api.create("datasets/org/clips", files=weights)
    loopback.requests.clear()
    return passing.make(tmp_path / "new" / "onnx-int8", seed=7)


def names_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_the_hubs_package_asks_the_hub() -> None:
    for path in {*ROOT.glob("exporter/**/*.py"), *ROOT.glob("exporter/validate/**/*.py")}:
        if path.parent.name != "hub":
            names = names_of(ast.parse(path.read_bytes()))
            ours = {name for name in names if name.split(".")[0] == "huggingface_hub"}
            assert all(".".join(n.split(".")[:2]) in ASKS_NOBODY for n in ours), path


def push_it(folder: Path) -> object:
    return list(push.push(push.plan_push(folder, None, None), push.Way(), silent))


ASKED: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "a list": (lambda _: list_repository("org/speech", None, silent), "/api/models/", TRIES),
    "a dataset": (
        lambda _: list_repository("org/clips", None, silent, repo_type="dataset"),
        "/api/datasets/",
        TRIES,
    ),
    "a checkpoint": (lambda _: fetch("org/speech", None), "/api/models/", TRIES),
    "a header": (
        lambda _: remote_header("org/weights", "main", "model.safetensors"),
        "/resolve/",
        TRIES,
    ),
    "a look": (lambda _: doctor.brought("org/speech", None, silent), "/resolve/", TRIES),
    "a pull": (lambda folder: pull.pull("org/speech", folder / "pulled"), "/resolve/", TRIES),
    "its bytes": (lambda folder: pull.pull("org/speech", folder / "pulled"), "/storage/", TRIES),
    "a push": (push_it, "/commit/", TRIES),
    "its branch": (push_it, "/revision/", TRIES),
    # The library repeats these itself, since it can rewind the file: five times.
    "what is sent": (push_it, "/storage/", 6),
}


@pytest.mark.parametrize("status", [503, 500, 429])
@pytest.mark.parametrize("what", ASKED)
def test_a_hub_that_fails_for_ever_is_asked_so_often(
    loopback: Hub, folder: Path, what: str, status: int
) -> None:
    ask, where, times = ASKED[what]
    with (
        loopback.failing(status, lambda asked: where in asked.path),
        pytest.raises(HubError, match=rf"HTTP {status}"),
    ):
        ask(folder)
    failed = Counter(key(one) for one in loopback.requests if where in one.path)
    if what == "what is sent" and status == 429 and OLDER:
        times = TRIES  # that, the library does not repeat
    if what in ("a look", "a pull") and not OLDER:
        times *= 2  # the library asks for a file's facts once more before it gives up
    counts = set(failed.values())
    # Files are sent side by side, and the first that is given up ends all.
    assert counts == {times} or (what == "what is sent" and max(counts) == times), failed


@pytest.mark.parametrize(
    ("status", "name", "value"),
    [
        (429, "Retry-After", "3600"),
        (429, "RateLimit", '"api";r=0;t=3600'),
        (503, "Retry-After", "3600"),
    ],
)
def test_a_long_pause_that_the_hub_asks_for_is_told_and_not_waited_for(
    loopback: Hub, folder: Path, status: int, name: str, value: str
) -> None:
    """Newer releases of the library would sleep for the hour between two tries of a PUT."""

    def busy(_answer: Answer) -> Answer:
        refused = Refused(status, "busy").answer
        return replace(refused, headers={**refused.headers, name: value})

    with (
        loopback.failing(busy, lambda asked: asked.method == "PUT"),
        pytest.raises(HubError, match="3600 s"),
    ):
        push_it(folder)
    sent = Counter(key(one) for one in loopback.requests if one.method == "PUT")
    assert set(sent.values()) == {1}


@pytest.mark.parametrize("how", ["before", "head"])
@pytest.mark.parametrize("what", ["a list", "a checkpoint", "a look", "a pull", "its bytes"])
def test_a_hub_that_hangs_up_for_ever_is_asked_so_often(
    loopback: Hub, folder: Path, what: str, how: str
) -> None:
    ask, where, times = ASKED[what]

    def reads(asked: Request) -> bool:
        return where in asked.path and (how == "before" or asked.method == "GET")

    with loopback.failing(how, reads), pytest.raises(HubError):
        ask(folder)
    failed = Counter(key(one) for one in loopback.requests if reads(one))
    assert set(failed.values()) == {times}, failed


def key(asked: Request) -> tuple[str, str]:
    return asked.method, asked.path


def test_tries_are_counted_anew_while_bytes_arrive(loopback: Hub) -> None:
    arrived = iter([0, 0, 1, 1, 2, 2, 2, 2, 2])
    tries = []

    def attempt() -> None:
        tries.append(1)
        raise ConnectionError

    with pytest.raises(HubError, match="given up"):
        client.with_retries(
            attempt, silent, "it", lambda _: HubError("given up"), received=lambda: next(arrived)
        )
    assert len(tries) == 7


def test_errors_of_ours_and_of_this_machine_are_not_repeated(loopback: Hub) -> None:
    for error in (HubError("ours"), OSError(28, "No space left on device", "file")):
        tries = []

        def attempt(error: Exception = error, tries: list[int] = tries) -> None:
            tries.append(1)
            raise error

        with pytest.raises(type(error)):
            client.with_retries(attempt, silent, "it", lambda _: ExporterError("never"))
        assert len(tries) == 1
