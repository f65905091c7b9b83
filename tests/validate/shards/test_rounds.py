"""Work in parts: whoever hears them, in any order and twice, the report is that of one machine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from exporter.artifact.report import Report
from exporter.engine import environment
from exporter.engine.part_store import PartStore
from exporter.errors import DataError, MachineError
from exporter.recipe import Gate
from exporter.system.progress import silent
from exporter.validate import pipeline, rounds, subjects, validation
from exporter.validate.gate import looks
from exporter.validate.shards.parts import hash_of
from exporter.validate.subjects import Settings
from tests.support.recordings import write_clips
from tests.validate.shards.conftest import Hear, predictions, without_times
from tests.validate.test_looks import pack, with_gates

Judge = Callable[..., list[Report]]

pytestmark = pytest.mark.usefixtures("_small_shards")


@pytest.fixture
def merge(tmp_path: Path, tiny_whisper: Path) -> Judge:
    """Judge what is in the store."""

    def merging(*names: str, **how: Any) -> list[Report]:
        known: dict[str, Any] = {
            "reference": str(tiny_whisper),
            "data": str(tmp_path / "clips"),
            "until": "all",
            "store": str(tmp_path / "store"),
        }
        paths = [tmp_path / name for name in names]
        return pipeline.validate(paths, threads=1, merge=True, **{**known, **how})

    return merging


def test_the_merged_report_is_that_of_one_machine(
    judged: Judge, hear: Hear, merge: Judge, tmp_path: Path
) -> None:
    one, two = judged("one", "two", until="all")
    known = [predictions(tmp_path / name) for name in ("one", "two")]
    for name in ("one", "two"):
        (tmp_path / name / "report.json").unlink()
    for number in (3, 1, 2, 1):  # in any order, one of them twice
        told = hear((number, 3), "one", "two")
    assert told.certain
    assert told.planned == told.done == 4 + 3  # the artifacts have the same bytes
    assert told.heard == 0
    assert not (tmp_path / "one" / "report.json").exists()
    merged = merge("one", "two")
    assert [without_times(each) for each in merged] == [without_times(one), without_times(two)]
    assert [predictions(tmp_path / name) for name in ("one", "two")] == known
    assert merged[0].data.sha256 == one.data.sha256
    assert "heard_on" not in (tmp_path / "one" / "report.json").read_text()


def test_a_run_with_a_store_finds_what_others_heard(
    judged: Judge, hear: Hear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged("one", until="all", store=str(tmp_path / "store"))
    assert len(PartStore(tmp_path / "store").names()) == 4 + 3
    assert hear((1, 1), "one").heard == 0
    shutil.copytree(tmp_path / "one", tmp_path / "same")
    told = hear((1, 1), "same")
    assert (told.heard, told.planned) == (0, 7)  # the same bytes, under another name


def test_a_missing_part_is_told_and_nothing_is_written(
    judged: Judge, hear: Hear, merge: Judge, tmp_path: Path
) -> None:
    judged("one", until="all")
    before = (tmp_path / "one" / "report.json").read_bytes()
    told = hear((2, 3), "one")
    assert (told.heard, told.done, told.planned, told.certain) == (2, 2, 7, False)
    with pytest.raises(DataError, match="of all 7 clips, 5 of 7 shards are missing"):
        merge("one")
    assert (tmp_path / "one" / "report.json").read_bytes() == before
    hear((1, 1), "one")
    victim = min(PartStore(tmp_path / "store").names())
    whole = (tmp_path / "store" / victim).read_bytes()
    (tmp_path / "store" / victim).write_bytes(whole[:-9])
    with pytest.raises(DataError, match="1 of 7 shards"):
        merge("one")
    assert hear((1, 1), "one").heard == 1
    assert (tmp_path / "store" / victim).read_bytes() == whole
    assert merge("one")


def test_both_sides_must_have_heard_the_same_audio(
    judged: Judge, hear: Hear, merge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged("one", until="all")
    real = rounds.Rounds._run

    def originals_alone(self: Any, jobs: Any) -> Any:
        return real(self, [job for job in jobs if job[0].listener.name == "original"])

    with monkeypatch.context() as patch:
        patch.setattr(rounds.Rounds, "_run", originals_alone)
        patch.setattr(rounds.Rounds, "_settled", lambda *_: True)
        hear((1, 1), "one")
    files = tmp_path / "clips"
    sound = bytearray((files / "3.wav").read_bytes())
    sound[-9] ^= 1
    (files / "3.wav").write_bytes(sound)  # of the same size
    with pytest.raises(DataError, match=r"3\.wav: the original and .*one heard other audio"):
        hear((1, 1), "one")
    with pytest.raises(DataError, match=r"3\.wav: the original and .*one heard other audio"):
        merge("one")


def test_parts_of_two_kinds_of_machines_are_not_mixed(
    judged: Judge,
    hear: Hear,
    merge: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    judged("one", until="all")
    hear((1, 2), "one")
    here = environment.describe()
    other = {**here, "cpu": ["x86-64-v3", "avx2"]}
    with monkeypatch.context() as patch:
        patch.setattr(environment, "describe", lambda: other)
        assert "another kind" not in caplog.text
        told = hear((2, 2), "one")
        assert "has parts from another kind of machine (x86-64" in caplog.text
        assert told.heard == 3
        assert not told.certain
    with pytest.raises(DataError) as caught:
        merge("one")
    assert "2 kinds of machines, and none of them complete" in str(caught.value)
    assert "complete: CPU x86-64-v" in str(caught.value)
    assert "CPU x86-64-v3 avx2" in str(caught.value)
    assert "numpy" not in str(caught.value)  # its version is the same
    with monkeypatch.context() as patch:
        patch.setattr(environment, "describe", lambda: other)
        hear((1, 1), "one")
    # This kind has heard some of it, perhaps after an update: the rest is wanted, not the old ones.
    with pytest.raises(DataError, match="3 of 7 shards are missing"):
        merge("one")
    names = PartStore(tmp_path / "store").names()
    assert {name.partition("-")[2] for name in names} == {
        f"{hash_of(each)}.jsonl" for each in (here, other)
    }
    for name in names:
        if name.endswith(f"{hash_of(here)}.jsonl"):
            (tmp_path / "store" / name).unlink()
    (told_by,) = merge("one")  # on a machine of another kind
    assert told_by.environment.heard_on == other


def test_parts_are_heard_look_by_look(
    judged: Judge, hear: Hear, merge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 7 clips, 3 are enough for a loose gate; a strict one needs the others as well."""
    monkeypatch.setattr(subjects, "TIMED_CLIPS", 2)
    monkeypatch.setattr(subjects, "TIMED_BATCHES", 1)
    monkeypatch.setattr(looks, "FIRST", 3)
    with_gates(monkeypatch, strict=Gate(max_wer_increase=0.1, min_clips=1, max_latency_ratio=100))
    loose, strict = judged("loose", "strict")
    told = hear((1, 2), "loose", "strict", until="certain")
    assert (told.clips, told.listed, told.heard, told.done, told.planned) == (3, 7, 2, 2, 3)
    with pytest.raises(DataError, match="of the first 3 of 7 clips, 1 of 3 shards are missing"):
        merge("loose", "strict", until="certain")
    told = hear((2, 2), "loose", "strict", until="certain")
    # It finds the first look complete, and goes on with its share of the second.
    assert (told.clips, told.heard, told.certain) == (7, 1 + 2, False)
    (tmp_path / "loose" / "report.json").unlink()
    with pytest.raises(DataError, match="of all 7 clips, 2 of 4 shards are missing"):
        merge("loose", "strict", until="certain")
    assert not (tmp_path / "loose" / "report.json").exists()  # nothing was measured
    assert not hear((2, 2), "loose", "strict", until="certain").heard
    assert hear((1, 2), "loose", "strict", until="certain").certain
    merged = merge("loose", "strict", until="certain")
    assert [without_times(each) for each in merged] == [without_times(loose), without_times(strict)]
    assert [each.looks.made for each in merged if each.looks] == [1, 2]


def test_what_cannot_be_read_is_left_out_as_on_one_machine(
    judged: Judge, hear: Hear, merge: Judge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = write_clips(tmp_path / "ten", 10)
    for number in (2, 3, 7):
        (clips / f"{number}.wav").write_text("no audio")
    how: dict[str, Any] = {"data": str(clips), "until": "all", "skip_unreadable": True}
    (one,) = judged("one", **how)
    known = predictions(tmp_path / "one")
    with pytest.raises(DataError, match=r"manifest\.jsonl:3: .*2\.wav"):
        hear((1, 1), "one", data=str(clips))
    caplog.clear()
    hear((1, 1), "one", **how)
    assert "left out: " in caplog.text
    caplog.clear()
    with pytest.raises(DataError, match="missing"):
        merge("one", data=str(clips))
    assert "a part lacks 2.wav, which could not be read; --skip-unreadable" in caplog.text
    (merged,) = merge("one", **how)
    assert without_times(merged) == without_times(one)
    assert merged.data.unreadable == ("2.wav", "3.wav", "7.wav")
    assert predictions(tmp_path / "one") == known


def test_clips_of_an_archive_are_read_where_they_are_heard(
    judged: Judge, hear: Hear, merge: Judge, tmp_path: Path
) -> None:
    packed = pack(write_clips(tmp_path / "many", 7))
    (one,) = judged("one", data=str(packed), until="all")
    hear((1, 1), "one", data=str(packed))
    (merged,) = merge("one", data=str(packed))
    assert without_times(merged) == without_times(one)


def test_times_that_do_not_count_leave_latency_undecided(
    judged: Judge, hear: Hear, merge: Judge
) -> None:
    judged("one", until="all")
    hear((1, 1), "one")
    (told,) = merge("one", timing="none")
    open_ones = {check.name: check for check in told.checks if check.passed is None}
    assert {"latency", "lengths"} <= {*open_ones}
    assert "The times do not count" in open_ones["latency"].sentence
    assert told.verdict != "passed"


def test_a_device_that_this_machine_lacks_is_told(
    judged: Judge, hear: Hear, merge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged("one", until="all")
    error = MachineError("one needs a card")
    monkeypatch.setattr(validation, "_require_device", Mock(side_effect=error))
    with pytest.raises(MachineError, match="one needs a card"):
        hear((1, 1), "one")
    with pytest.raises(MachineError, match="one needs a card"):
        merge("one")


def test_a_plan_opens_no_audio(
    judged: Judge, hear: Hear, tmp_path: Path, tiny_whisper: Path
) -> None:
    judged("one", until="all")
    hear((1, 2), "one")
    for path in (tmp_path / "clips").glob("*.wav"):
        path.write_text("no audio")
    settings = Settings(
        *(str(tmp_path / "clips"), None, str(tiny_whisper), 1, 1, False),
        until="all",
        store=str(tmp_path / "store"),
    )
    ((look,),) = pipeline.plan([tmp_path / "one"], settings, silent)
    assert (look.clips, look.windows) == (7, 7)
    assert [(model.shards, model.done) for model in look.models] == [(4, 0), (3, 0)]
