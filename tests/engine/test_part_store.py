"""Stores of parts: in folders, and in an object store on loopback."""

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from exporter.engine import part_store
from exporter.engine.part_store import PartStore
from exporter.errors import DataError, RecipeError, exhausted
from exporter.formats.clips.addresses import Remote, source_at
from exporter.system import files
from exporter.system.files import partial_of
from tests.support.s3 import Store, serving

NAME = f"{'0123456789abcdef' * 4}-{'0' * 64}.jsonl"
OTHER = f"{'f' * 64}-{'0' * 64}.jsonl"
LARGE = bytes(range(256)) * (12 << 12)  # 12 MiB: more than one part of an upload
PREFIX = "runs/july"
WRITER = """
import sys
from exporter.engine.part_store import PartStore
from exporter.formats.clips.addresses import Remote

PartStore(Remote(sys.argv[1])).write(sys.argv[2], bytes(range(256)) * (12 << 12))
"""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serving() as served:
        yield served


@pytest.fixture
def in_bucket(bucket: Store) -> PartStore:
    return PartStore(Remote(bucket.url(PREFIX)))


@pytest.fixture
def in_folder(tmp_path: Path) -> PartStore:
    return PartStore(tmp_path / "runs" / "july")


@pytest.fixture(params=["in_folder", "in_bucket"])
def store(request: pytest.FixtureRequest) -> PartStore:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, PartStore)
    return found


def test_parts_are_written_listed_read_and_removed(store: PartStore) -> None:
    assert store.names() == frozenset()
    store.write(NAME, b"one\n")
    store.write(OTHER, b"two\n")
    assert store.names() == {NAME, OTHER}
    assert store.read(NAME) == b"one\n"
    store.write(NAME, b"newer\n")
    assert store.read(NAME) == b"newer\n"
    store.remove(NAME)
    store.remove(NAME)
    assert store.names() == {OTHER}
    with pytest.raises(DataError, match=f"{NAME} cannot be read"):
        store.read(NAME)


def test_a_large_part(store: PartStore) -> None:
    store.write(NAME, LARGE)
    assert store.read(NAME) == LARGE


def test_it_travels_to_another_process(store: PartStore) -> None:
    store.write(NAME, b"one\n")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read(NAME) == b"one\n"


def test_several_write_at_once(store: PartStore) -> None:
    names = [f"{number:064x}-{'0' * 64}.jsonl" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(name, name.encode()), names * 2))
    assert store.names() == frozenset(names)
    assert all(store.read(name) == name.encode() for name in names)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "A", "a\n", "a\\b", "-x", "a?b"],
)
def test_no_name_leads_out_of_the_folder(store: PartStore, name: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: store.read(name),
        lambda: store.write(name, b"x"),
        lambda: store.remove(name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="no name of a part"):
            call()


def test_an_empty_part_is_none(store: PartStore) -> None:
    with pytest.raises(ValueError, match="without data"):
        store.write(NAME, b"")
    assert store.names() == frozenset()


def test_a_part_that_is_too_large(store: PartStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(NAME, b"x" * 11)
    monkeypatch.setattr(part_store, "_MOST_BYTES", 10)
    with pytest.raises(DataError, match="larger than 10 bytes"):
        store.read(NAME)


class TestFolder:
    def test_it_is_made_by_the_first_write(self, in_folder: PartStore, tmp_path: Path) -> None:
        assert in_folder.names() == frozenset()
        in_folder.remove(NAME)
        assert not list(tmp_path.iterdir())
        in_folder.write(NAME, b"x")
        assert (tmp_path / "runs" / "july" / NAME).read_bytes() == b"x"
        assert str(in_folder) == str(tmp_path / "runs" / "july")

    def test_what_else_lies_there_is_no_part(self, tmp_path: Path) -> None:
        place = PartStore(tmp_path)
        place.write(NAME, b"x")
        partial_of(tmp_path / OTHER).write_bytes(b"half of a p")
        (tmp_path / "README.md").write_bytes(b"x")
        (tmp_path / "empty.jsonl").touch()
        (tmp_path / "folder.jsonl").mkdir()
        (tmp_path / "link.jsonl").symlink_to(tmp_path / NAME)
        assert place.names() == {NAME}
        with pytest.raises(DataError, match="is a link"):
            place.read("link.jsonl")
        with pytest.raises(DataError, match="empty"):
            place.read("empty.jsonl")

    def test_a_killed_writer_leaves_no_part(self, tmp_path: Path) -> None:
        program = (
            "import os, sys; from pathlib import Path\n"
            "from exporter.engine.part_store import PartStore\n"
            "from exporter.system import files\n"
            "files._flush = lambda stream: os.kill(os.getpid(), 9)\n"
            "PartStore(Path(sys.argv[1])).write('a.jsonl', b'x' * 100_000)\n"
        )
        ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
        assert ended.returncode == -9
        assert list(tmp_path.iterdir())
        assert PartStore(tmp_path).names() == frozenset()
        PartStore(tmp_path).write(NAME, b"x")
        assert [path.name for path in tmp_path.iterdir()] == [NAME]

    def test_a_full_disk(self, in_folder: PartStore, monkeypatch: pytest.MonkeyPatch) -> None:
        in_folder.write(NAME, b"x")

        def full(_stream: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "_flush", full)
        with pytest.raises(RecipeError, match="No space left") as caught:
            in_folder.write(NAME, b"newer")
        assert exhausted(caught.value.__cause__)  # which exits with 8
        assert in_folder.read(NAME) == b"x"

    def test_a_partial_file_that_another_machine_removed(
        self, in_folder: PartStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Over NFS without locks, it seems to be that of a killed process."""
        flush, calls = files._flush, []

        def removed(stream: Any) -> None:
            calls.append(stream.name)
            flush(stream)
            if len(calls) == 1:
                Path(stream.name).unlink()

        monkeypatch.setattr(files, "_flush", removed)
        in_folder.write(NAME, b"x")
        assert in_folder.read(NAME) == b"x"
        assert len(calls) == 2

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        store = PartStore(tmp_path / "file")
        with pytest.raises(RecipeError, match=r"file cannot be written .*--store"):
            store.write(NAME, b"x")
        with pytest.raises(DataError, match="file cannot be read: Not a directory"):
            store.names()

    def test_a_folder_that_cannot_be_written(
        self, in_folder: PartStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_folder.write(NAME, b"x")

        def refuse(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(part_store, "write_atomic", refuse)
        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(RecipeError, match=r"\(Read-only file system\): .*--store"):
            in_folder.write(NAME, b"y")
        with pytest.raises(RecipeError, match=r"\(Read-only file system\): .*--store"):
            in_folder.remove(NAME)
        assert in_folder.read(NAME) == b"x"


class TestBucket:
    def test_what_else_lies_there_is_no_part(self, in_bucket: PartStore, bucket: Store) -> None:
        in_bucket.write(NAME, b"x")
        for key in ("July/x.jsonl", f"{PREFIX}-2/a.jsonl", f"{PREFIX}/inner/b.jsonl"):
            bucket.objects[key] = b"x"
        bucket.objects[f"{PREFIX}/README.md"] = b"x"
        bucket.objects[f"{PREFIX}/"] = bucket.objects[f"{PREFIX}/empty.jsonl"] = b""
        assert in_bucket.names() == {NAME}
        assert PartStore(Remote(bucket.url(f"{PREFIX}/"))).names() == {NAME}

    def test_a_whole_bucket(self, bucket: Store) -> None:
        store = PartStore(Remote(bucket.url("").replace("/?", "?")))
        store.write(NAME, b"x")
        assert bucket.objects == {NAME: b"x"}
        assert store.names() == {NAME}
        assert store.read(NAME) == b"x"

    def test_many_parts(self, in_bucket: PartStore, bucket: Store) -> None:
        names = {f"{number:064x}.jsonl" for number in range(2500)}
        bucket.objects.update({f"{PREFIX}/{name}": b"x" for name in names})
        assert in_bucket.names() == names

    def test_options_are_in_no_message(self, in_bucket: PartStore, bucket: Store) -> None:
        assert str(in_bucket) == f"s3://bucket/{PREFIX}"
        with pytest.raises(DataError) as caught:
            in_bucket.read(NAME)
        assert "endpoint_override" not in str(caught.value)
        assert str(caught.value).startswith(f"s3://bucket/{PREFIX}/{NAME} cannot be read: ")
        assert not bucket.objects

    @pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
    @pytest.mark.parametrize(
        "request_",
        ["POST .*uploads", "PUT .*partNumber=1", "PUT .*partNumber=2", "POST .*uploadId"],
    )
    def test_a_write_that_fails_leaves_nothing(
        self, in_bucket: PartStore, bucket: Store, data: bytes, request_: str
    ) -> None:
        bucket.refused = request_
        if data != LARGE and "2" in request_:
            data = LARGE[: 11 << 20]
        with pytest.raises(DataError, match=r"cannot be written: .*\nGive credentials") as caught:
            in_bucket.write(NAME, data)
        assert len(str(caught.value).splitlines()) <= 3
        bucket.refused = None
        del caught
        assert not bucket.objects
        assert in_bucket.names() == frozenset()

    def test_a_failed_write_leaves_the_older_part(
        self, in_bucket: PartStore, bucket: Store
    ) -> None:
        in_bucket.write(NAME, b"x")
        bucket.refused = "PUT .*partNumber=2"
        with pytest.raises(DataError, match="cannot be written"):
            in_bucket.write(NAME, LARGE)
        assert bucket.objects[f"{PREFIX}/{NAME}"] == b"x"

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    @pytest.mark.parametrize(
        "request_", ["POST .*uploads", "PUT .*partNumber=1", "POST .*uploadId"]
    )
    def test_a_writer_that_is_killed_or_interrupted(
        self, in_bucket: PartStore, bucket: Store, number: signal.Signals, request_: str
    ) -> None:
        """The part is whole or not there, and the process ends."""
        assert isinstance(in_bucket.address, Remote)
        writers = list[subprocess.Popen[bytes]]()

        def arrived(request: str) -> None:
            if re.match(request_, request):
                writers[0].send_signal(number)

        bucket.arrived = arrived
        command = [sys.executable, "-c", WRITER, in_bucket.address.url, NAME]
        writers.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        _, told = writers[0].communicate(timeout=60)
        if number == signal.SIGKILL:
            assert writers[0].returncode == -signal.SIGKILL
            if "uploadId" not in request_:
                assert in_bucket.names() == frozenset()
        else:
            assert b"KeyboardInterrupt" in told
            assert in_bucket.names() == {NAME}
        for name in in_bucket.names():
            assert in_bucket.read(name) == LARGE

    def test_removal_that_is_refused(self, in_bucket: PartStore, bucket: Store) -> None:
        in_bucket.write(NAME, b"x")
        bucket.refused = "DELETE "
        with pytest.raises(DataError, match=r"cannot be removed: .*\nGive credentials"):
            in_bucket.remove(NAME)
        assert in_bucket.names() == {NAME}

    def test_a_store_that_refuses_all(self, in_bucket: PartStore, bucket: Store) -> None:
        bucket.broken = True
        with pytest.raises(DataError, match=f"s3://bucket/{PREFIX} cannot be read: "):
            in_bucket.names()

    def test_a_password_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds a key or password"):
            source_at(tmp_path, "s3://key:secret@bucket/runs")


def test_a_process_in_another_folder_finds_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert PartStore(Path("parts")).anywhere() == PartStore(tmp_path / "parts")
    remote = PartStore(Remote("s3://bucket/parts?region=x"))
    assert remote.anywhere() == remote
