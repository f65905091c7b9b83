"""A run that is killed goes on where it was, and one that ends leaves nothing behind."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import report
from exporter.artifact.report import Report
from exporter.cli import main
from exporter.engine import unfinished
from exporter.validate.shards.hearing import Hearing, Shard
from tests.support.golden import GOLDEN
from tests.support.recordings import write_clips
from tests.validate.shards.conftest import predictions

Judge = Callable[..., list[Report]]

pytestmark = pytest.mark.usefixtures("_small_shards")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The shards that were kept: the model's name, and the number of its first clip."""
    kept: list[tuple[str, int]] = []
    real = Hearing.keep

    def noted(self: Hearing, shard: Shard, *how: Any) -> None:
        real(self, shard, *how)
        kept.append((self.listener.name, shard.numbers.start))

    monkeypatch.setattr(Hearing, "keep", noted)
    return kept


def broken_after(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run end as if it were killed when so many shards are kept."""
    real, kept = Hearing.keep, []

    def ending(self: Hearing, shard: Shard, *how: Any) -> None:
        real(self, shard, *how)
        kept.append(shard)
        if len(kept) == shards:
            raise KeyboardInterrupt

    monkeypatch.setattr(Hearing, "keep", ending)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shards", [1, 3, 4, 6])
def test_what_was_heard_is_not_heard_again(
    shards: int,
    workers: int,
    judged: Judge,
    tmp_path: Path,
    heard: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged("whole", workers=workers)
    everything = len(heard)
    heard.clear()
    with monkeypatch.context() as patch:
        broken_after(shards, patch)
        with pytest.raises(KeyboardInterrupt):
            judged("one", workers=workers)
    assert len(heard) == shards
    assert [entry.what for entry in unfinished.entries()] == ["parts of an unfinished validation"]
    (told,) = judged("again", workers=workers)  # of the same bytes
    assert len(heard) == everything
    assert len({*heard}) == everything
    assert predictions(tmp_path / "again") == predictions(tmp_path / "whole")
    assert told.data.clips == 7
    assert unfinished.entries() == []
    assert not list((tmp_path / "cache" / "parts").iterdir())


DRIVER = """
import os, signal, sys
from pathlib import Path
from exporter.cli import main
from exporter.validate import validation
from exporter.validate.shards.hearing import Hearing

validation.windows_of = lambda _parameters, *, original: 2
keep, kept, most = Hearing.keep, [], int(sys.argv.pop(1))

def killed(self, shard, *how):
    keep(self, shard, *how)
    kept.append(shard)
    with Path("kept").open("a") as stream:
        print(self.listener.name, shard.numbers.start, file=stream)
    if len(kept) == most:
        os.kill(os.getpid(), signal.SIGKILL)

Hearing.keep = killed
sys.exit(main())
"""


@pytest.mark.slow
def test_after_a_kill_at_most_one_shard_is_heard_again(
    tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes: the one that is killed takes its children with it, and cleans nothing up."""
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    shutil.copytree(GOLDEN / "v1-torch-int8", tmp_path / "one")
    clips = write_clips(tmp_path / "clips", 9)
    options = ["--data", str(clips), "--reference", str(tiny_whisper), "--until", "all"]
    command = ["validate", str(tmp_path / "one"), *options, "--threads", "1"]

    def run(most: int) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(most), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=tmp_path,
        )
        kept = (tmp_path / "kept").read_text().splitlines()
        (tmp_path / "kept").unlink()
        return done.returncode, kept

    code, first = run(7)  # the original's five, and two of the artifact's
    assert code == -signal.SIGKILL
    assert not (tmp_path / "one" / "report.json").exists()
    code, second = run(100)
    assert code == 4  # of nine clips, nothing is certain
    assert len(first) == 7
    assert len({*first, *second}) == len(first) + len(second) == 10
    assert report.read(tmp_path / "one").data.clips == 9
    assert main(["cache"]) == 0
    assert unfinished.entries() == []


def test_the_cache_tells_and_clears_unfinished_runs(
    judged: Judge, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        broken_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            judged("one")
    assert main(["cache"]) == 0
    assert "parts of an unfinished validation" in capfd.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert unfinished.entries() == []


def test_of_two_equal_runs_none_removes_the_others_parts(
    judged: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins while the first one hears, and ends before it."""
    real, inner = Hearing.keep, []

    def nested(self: Hearing, shard: Shard, *how: Any) -> None:
        real(self, shard, *how)
        if not inner:
            inner.append(True)
            inner.extend(judged("two"))

    monkeypatch.setattr(Hearing, "keep", nested)
    (one,) = judged("one")
    assert one.predictions_sha256 == inner[1].predictions_sha256


def test_a_changed_clip_is_heard_again(
    judged: Judge, tmp_path: Path, heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        broken_after(7, patch)
        with pytest.raises(KeyboardInterrupt):
            judged("one")
    heard.clear()
    path = tmp_path / "clips" / "3.wav"
    sound = bytearray(path.read_bytes())
    sound[-9] ^= 1
    path.write_bytes(sound)
    judged("again")
    assert sorted(heard) == [("golden/again", 2), ("original", 3)]


def test_without_a_cache_a_run_works_all_the_same(
    judged: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "file" / "cache"))
    assert judged("one")
    assert "a run that is killed cannot go on later" in caplog.text
