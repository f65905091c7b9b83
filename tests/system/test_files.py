"""What is written is there whole, or as it was; and what the dead have left is cleared."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from exporter.artifact import store
from exporter.errors import BusyError, DataError, IntegrityError
from exporter.system import files, signals, tempdirs
from exporter.system.signals import undisturbed
from tests.support import sealed

# Leaves what it holds as a process does that is killed: nothing is closed or cleaned up.
DYING = "; import os; os.kill(os.getpid(), 9)"


def die_after(code: str, folder: Path) -> None:
    command = [sys.executable, "-c", f"from pathlib import Path; {code}{DYING}"]
    ended = subprocess.run(command, env={**os.environ, "TMPDIR": str(folder)}, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    half = tmp_path / f".note.partial-{'0' * 32}"
    half.write_bytes(b"hal")
    stranger = tmp_path / ".note.partial-mine"
    stranger.write_bytes(b"")
    files.write_atomic(tmp_path / "other", b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([stranger, tmp_path / "other"])


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / f".note.partial-{'0' * 32}"
    with files.FileLock(path):
        files.write_atomic(tmp_path / "other", b"whole")
        assert path.exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Files are written whole there too; those that others seem to have left stay."""

    def none(_descriptor: int, _how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    other = tmp_path / f".note.partial-{'0' * 32}"
    other.write_bytes(b"being written on another machine")
    files.write_atomic(tmp_path / "note", b"older")
    files.write_atomic(tmp_path / "note", b"whole")
    assert (tmp_path / "note").read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == sorted([other, tmp_path / "note"])


def test_a_lock_that_fails_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_descriptor: int, _how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.write_atomic(tmp_path / "note", b"whole")
    assert not list(tmp_path.iterdir())


def test_a_file_cleared_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, times = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not times:
            next(tmp_path.glob(".note.partial-*")).unlink()
        times.append(how)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    files.write_atomic(tmp_path / "note", b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]
    assert times.count(fcntl.LOCK_EX) == 2


def test_a_lock_follows_no_link_and_truncates_nothing(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("kept")
    (tmp_path / ".linked.lock").symlink_to(theirs)
    with pytest.raises(IntegrityError, match="remove it"), store.stage(tmp_path / "linked"):
        pass
    with pytest.raises(OSError, match="symbolic links"), files.FileLock(tmp_path / ".linked.lock"):
        pass
    (tmp_path / ".own.lock").write_text("kept")
    with store.stage(tmp_path / "own"):
        pass
    assert [(tmp_path / name).read_text() for name in ("theirs", ".own.lock")] == ["kept"] * 2


def test_a_place_is_held_against_threads_and_processes_until_its_holder_is_killed(
    tmp_path: Path,
) -> None:
    place, busy = tmp_path / "aoti", []
    holding = (
        "import sys, time; from pathlib import Path; from exporter.artifact import store\n"
        "with store.stage(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )

    def enter() -> None:
        try:
            with store.stage(place):
                pass
        except BusyError as error:
            busy.append(str(error))

    with store.stage(place):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    command = [sys.executable, "-c", holding, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        enter()
        holder.kill()
    told = f"another build is writing {place}: wait for it, or choose another --output"
    assert busy == [told, told]
    enter()
    assert len(busy) == 2


def test_a_small_file_is_read_whole_or_refused(tmp_path: Path) -> None:
    path, link, pipe = (tmp_path / name for name in ("file", "link", "pipe"))
    path.write_bytes(b"12345678")
    link.symlink_to(path)
    os.mkfifo(pipe)

    def read(path: Path, most: int = 8, *, follow_links: bool = True) -> bytes:
        return files.read_small(path, most, DataError, "a note", follow_links=follow_links)

    assert read(path) == read(link) == b"12345678"
    with pytest.raises(DataError, match="larger than 7 bytes: not a note"):
        read(path, 7)
    with pytest.raises(DataError, match="is a link, where a note is expected"):
        read(link, follow_links=False)
    for odd in (pipe, Path("/dev/zero")):
        with pytest.raises(DataError, match="is no regular file, where a note is expected"):
            read(odd)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


@pytest.mark.parametrize("steps", ["one", "three"])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str
) -> None:
    if steps == "three":  # as on file systems that know no exchange
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    old, new = tmp_path / "place", tmp_path / "new"
    for folder in (old, new):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text(folder.name)
    files.replace_dir_atomically(new, old)
    assert (old / "inner" / "file").read_text() == "new"
    assert (new / "inner" / "file").read_text() == "place"
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_an_exchange_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        files._exchanged(tmp_path / "absent", tmp_path)


def test_new_folders_are_synced_into_those_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    files.make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_the_scratch_of_the_dead_is_cleared_and_that_of_the_living_is_not(tmp_path: Path) -> None:
    die_after(
        "from exporter.system.tempdirs import scratch; held = scratch(); held.__enter__()", tmp_path
    )
    (dead,) = tmp_path.iterdir()
    stranger = tmp_path / "exporter-step-by-step"
    stranger.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempdirs.tempfile, "tempdir", str(tmp_path))
        with tempdirs.scratch() as mine:
            assert not dead.exists()
            with tempdirs.scratch():
                assert mine.exists()
    assert list(tmp_path.iterdir()) == [stranger]


def test_a_scratch_that_cannot_be_locked_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(tempdirs.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", full)
    with pytest.raises(OSError, match="No locks"), tempdirs.scratch():
        pass
    assert list(tmp_path.iterdir()) == []


def test_interrupts_wait_for_the_end_of_a_cleanup() -> None:
    done, before = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def clean_up() -> None:
        with undisturbed():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                done.append(True)

    with pytest.raises(KeyboardInterrupt):
        clean_up()
    assert done == [True, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_impatience_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signals.listen()
    try:
        with pytest.raises(signals.Terminated):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(signals.time, "monotonic", lambda: float("inf"))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signals.leave()
        signal.raise_signal(signal.SIGINT)
        signals.listen()  # what is ignored stays ignored
        signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_artifact_that_is_replaced_is_read_whole(tmp_path: Path) -> None:
    """Verified over and over while others take its place, it is always one of them."""
    place, ended = tmp_path / "aoti", threading.Event()
    sealed.seal(place)

    def replace() -> None:
        for count in range(60):
            sealed.seal(place, files={"weights.bin": bytes([count]) * 5_000_000})
        ended.set()

    thread = threading.Thread(target=replace)
    thread.start()
    seen = set()
    while not ended.is_set():
        seen.add(store.verify(place).digest)
    thread.join()
    assert len(seen) > 3


def test_an_artifact_that_was_replaced_is_told(tmp_path: Path) -> None:
    place = sealed.seal(tmp_path / "aoti")
    manifest = store.verify(place)
    store.require_same(place, manifest)
    sealed.seal(place, files={"another": b""})
    with pytest.raises(BusyError, match="was replaced"):
        store.require_same(place, manifest)
