"""`exporter transcribe` of many recordings: lists of data, parts, what is left after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.cli import main
from exporter.formats import audio
from exporter.formats.clips import Clip
from exporter.recognition import load as loading
from exporter.recognition import parts, recordings, transcribe
from exporter.recognition.meter import Meter, shown
from exporter.recognition.recordings import Recording, Recordings, recordings_of
from exporter.runtime.transcript import Segment, Transcript
from exporter.system import worker
from exporter.system.progress import Progress
from tests.formats.test_corpora import sound, tar
from tests.support.golden import GOLDEN
from tests.support.s3 import serving


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an artifact of an earlier release, and a corpus of Kaldi's layout."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "v1-onnx-int8", "artifact")
    Path("kaldi").mkdir()
    levels = np.repeat(np.linspace(0.1, 0.9, 9), 16_000)
    soundfile.write("kaldi/call.wav", levels, 16_000)
    Path("kaldi/wav.scp").write_text("call call.wav\n")
    lines = [f"utt-{n}.x call {n} {n + 1}\n" for n in range(9)]
    Path("kaldi/segments").write_text("".join(lines))
    return tmp_path


class Hearing:
    """A recogniser that tells the loudness of what it hears."""

    sampling_rate = 16_000

    def __init__(self) -> None:
        self.heard: list[str] = []

    def transcribe_iter(self, sounds: Iterator[Any], **_: Any) -> Iterator[Transcript]:
        for each in sounds:
            samples = audio.load(each, 16_000, None, "audio")
            text = f"level {float(np.mean(np.asarray(samples))):.1f}"
            self.heard.append(text)
            yield Transcript(f" {text}", (1,), (Segment(0.0, 1.0, text),))


@pytest.fixture
def hearing(monkeypatch: pytest.MonkeyPatch) -> Hearing:
    """What is heard, in this process."""
    ears = Hearing()

    def run(
        _step: str,
        request: dict[str, Any],
        progress: Progress,
        what: str,
        on_result: Callable[[Any], None],
    ) -> None:
        for row in transcribe.transcribe(json.loads(json.dumps(request)), progress):
            on_result(json.loads(json.dumps(row)))

    monkeypatch.setattr(worker, "run", run)
    monkeypatch.setattr(loading, "load", lambda *_, **__: ears)
    monkeypatch.setattr(transcribe, "runs_here", lambda _folder: False)
    return ears


LEVELS = [f"level {n / 10:.1f}" for n in range(1, 10)]


def test_segments_are_recordings_with_names(
    hearing: Hearing, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder whose list names parts of files is taken by that list, not by its files."""
    for given in ("kaldi", "kaldi/wav.scp"):
        hearing.heard.clear()
        assert main(["transcribe", "artifact", given]) == 0
        lines = capfd.readouterr().out.splitlines()
        assert lines == [f"utt-{n}.x: {LEVELS[n]}" for n in range(9)]
    assert main(["transcribe", "artifact", "kaldi", "--output", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"utt-{n}.x.txt" for n in range(9)
    ]
    assert Path("out/utt-3.x.txt").read_text() == f"{LEVELS[3]}\n"


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("form", ["text", "json", "jsonl", "srt", "vtt", "tsv"])
def test_every_format_of_every_layout(form: str) -> None:
    members = [(f"{n}.wav", sound(n / 10)) for n in (1, 2)]
    tar(Path("x.tar"), *members)
    rows = [{"audio_filepath": "kaldi/call.wav", "offset": n, "duration": 1.0} for n in range(2)]
    Path("m.json").write_text("\n".join(map(json.dumps, rows)))
    call = ["transcribe", "artifact", "x.tar", "m.json", "--output", "out", "--format", form]
    assert main(call) == 0
    suffix = "txt" if form == "text" else form
    found = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.*"))
    names = ["kaldi/call", "kaldi/call-000001000", "x.tar/1", "x.tar/2"]
    assert {*found} - {"x.tar"} == {f"{name}.{suffix}" for name in names}
    assert "level 0.2" in Path(f"out/x.tar/2.{suffix}").read_text()


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize(
    "name", ["../../x.wav", "/etc/x.wav", "a/../../../x.wav", "x" * 300 + ".wav", "..", "a\nb.wav"]
)
def test_names_of_data_stay_in_the_folder_of_results(here: Path, name: str) -> None:
    members = [(name, sound(0.1))] if name != ".." else [("x/...wav", sound(0.1))]
    tar(here / "x.tar", *members)
    before = {path for path in here.parent.rglob("*") if here / "out" not in path.parents}
    assert main(["transcribe", "artifact", "x.tar", "--output", "out"]) == 0
    after = {path for path in here.parent.rglob("*") if here / "out" not in path.parents}
    assert after - before == {here / "out"}
    assert len([path for path in Path("out").rglob("*.txt") if path.is_file()]) == 1


@pytest.mark.parametrize("size", ["1", "4"])
def test_a_damaged_clip_of_an_archive_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """By a real model, in batches: the fault is found while a batch is read."""
    monkeypatch.setattr(transcribe, "runs_here", lambda _folder: True)
    late = sound(0.1, 20.0, "FLAC")
    members = [("a.wav", sound(0.1)), ("late.flac", late[: len(late) * 2 // 3])]
    tar(Path("x.tar"), *members, ("b.wav", sound(0.1)), ("c.wav", b"noise"))
    assert main(["transcribe", "artifact", "x.tar", "--batch-size", size]) == 3
    out, err = capfd.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["x.tar/a.wav", "x.tar/b.wav"]
    assert "error: x.tar: late: x.tar/late.flac cannot be read as audio" in err
    assert "error: x.tar: c: x.tar/c.wav cannot be read as audio" in err
    assert "2 of 4 files could not be transcribed" in err


def test_archives_that_are_compressed_and_lists_of_nothing(
    hearing: Hearing, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("x.tar.gz").write_bytes(b"")
    assert main(["transcribe", "artifact", "x.tar.gz"]) == 3
    assert "x.tar.gz is compressed as a whole" in capfd.readouterr().err
    Path("m.jsonl").write_text("\n")
    assert main(["transcribe", "artifact", "m.jsonl", "--output", "out"]) == 0
    assert hearing.heard == []


class TestParts:
    """`--parts`: files of JSON lines."""

    CALL = ("transcribe", "artifact", "kaldi", "--parts", "--output", "out")

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "PART_S", 2.0)

    @staticmethod
    def rows() -> list[dict[str, Any]]:
        files = sorted(Path("out").iterdir())
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]

    def test_each_has_a_line_for_a_recording(self, hearing: Hearing) -> None:
        assert main([*self.CALL]) == 0
        assert len(list(Path("out").iterdir())) == 5
        assert [(row["id"], row["text"]) for row in self.rows()] == [
            (f"utt-{n}.x", f" {LEVELS[n]}") for n in range(9)
        ]
        assert hearing.heard == LEVELS

    def test_a_repeated_command_writes_the_same(
        self, hearing: Hearing, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*self.CALL]) == 0
        first = {path.name: path.read_bytes() for path in Path("out").iterdir()}
        gone = sorted(first)[1]
        Path("out", gone).unlink()
        hearing.heard.clear()
        capfd.readouterr()
        assert main([*self.CALL]) == 0
        out, err = capfd.readouterr()
        assert (out, hearing.heard) == (f"out/{gone}\n", LEVELS[2:4])
        assert "4 of 5 parts are in out already" in err
        assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == first

    @pytest.mark.usefixtures("hearing")
    def test_other_options_and_data_are_other_parts(self) -> None:
        for more in ((), ("--word-timestamps",)):
            assert main([*self.CALL, *more]) == 0
        Path("kaldi/segments").write_text("new call 0 1\n")
        assert main([*self.CALL]) == 0
        assert len(list(Path("out").iterdir())) == 5 + 5 + 1

    def test_a_fault_ends_the_command_and_costs_one_part(
        self, hearing: Hearing, capfd: pytest.CaptureFixture[str]
    ) -> None:
        lines = Path("kaldi/segments").read_text().splitlines()
        Path("kaldi/segments").write_text("\n".join([*lines[:5], "bad call 70 71", *lines[5:]]))
        assert main([*self.CALL]) == 3
        assert "kaldi/segments:6: kaldi/call.wav ends after 9.000 s" in capfd.readouterr().err
        assert [row["id"] for row in self.rows()] == [f"utt-{n}.x" for n in range(4)]
        hearing.heard.clear()
        assert main([*self.CALL, "--skip-unreadable"]) == 0
        rows = self.rows()
        assert [row["id"] for row in rows if "error" in row] == ["bad"]
        assert len(rows) == 10
        assert hearing.heard == LEVELS[4:]
        assert "1 of 6 recordings were left out" in capfd.readouterr().err

    @pytest.mark.usefixtures("hearing")
    def test_options_that_do_not_go_together(self, capfd: pytest.CaptureFixture[str]) -> None:
        for call in (self.CALL[:-2], (*self.CALL, "--format", "srt")):
            assert main([*call]) == 2
            assert "give --output DIR, and leave --format out" in capfd.readouterr().err

    @pytest.mark.usefixtures("hearing")
    def test_json_names_the_files(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main([*self.CALL, "--json"]) == 0
        told = json.loads(capfd.readouterr().out)["parts"]
        assert [row["recordings"] for row in told] == [2, 2, 2, 2, 1]
        assert all(Path(row["output"]).is_file() for row in told)


@pytest.mark.usefixtures("hearing")
def test_what_cannot_be_read_may_be_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    Path("m.jsonl").write_text('{"audio": "kaldi/call.wav"}\n{"audio": "gone.wav"}\n')
    call = ["transcribe", "artifact", "m.jsonl", "--output", "out"]
    assert main(call) == 3
    assert "error: m.jsonl:2: audio file gone.wav does not exist" in capfd.readouterr().err
    assert main([*call, "--skip-unreadable"]) == 0
    err = capfd.readouterr().err
    assert "left out: m.jsonl:2: audio file gone.wav does not exist" in err
    assert "1 of 1 recordings were left out" in err


def test_a_bucket_is_heard_where_there_are_no_credentials(
    hearing: Hearing, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audio is brought some at a time, and what could not be brought is told."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(transcribe, "_MOST_BYTES", 5000)
    members = [(f"{n}.wav", sound(n / 10) if n != 5 else b"") for n in range(1, 10)]
    with serving() as store:
        store.objects["x.tar"] = tar(Path("x.tar"), *members).read_bytes()
        assert main(["transcribe", "artifact", store.url("x.tar"), "--output", "out"]) == 3
    out, err = capfd.readouterr()
    assert hearing.heard == [level for level in LEVELS if level != "level 0.5"]
    assert len(out.splitlines()) == 8
    assert "'5.wav' is empty" in err
    assert Path("out/x.tar/9.txt").read_text() == "level 0.9\n"


def test_long_lists_are_kept_on_disk(
    hearing: Hearing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "_IN_MEMORY", 4)
    assert main(["transcribe", "artifact", "kaldi", "--output", "out"]) == 0
    assert hearing.heard == LEVELS
    (tmp_path / "list").mkdir()
    listed = Recordings(lambda: tmp_path / "list")
    every = list(recordings_of(["kaldi"]))
    for each in every:
        listed.add(each)
    assert list(listed) == every
    assert len(listed.to_data()["rows"]) == 1
    assert list(Recordings.of_data(json.loads(json.dumps(listed.to_data())))) == every
    assert (listed.audio_s, listed.untimed, len(listed)) == (9.0, 0, 9)


class TestMeter:
    """Progress in hours of audio."""

    def listed(self, *clips: tuple[float, int]) -> Recordings:
        every = Recordings()
        for number, (seconds, size) in enumerate(clips):
            clip = Clip(f"{number}", Path("x"), "", duration_s=seconds, size_bytes=size)
            every.add(Recording(clip, Path(f"{number}")))
        return every

    def test_known_durations(self) -> None:
        now = iter([0.0, 100.0])
        meter = Meter(self.listed((3600, 5), (7200, 5), (7200, 0)), lambda: next(now))
        assert meter.told("a.wav") == ("file 1 of 3 (a.wav)", 0.0)
        meter.heard(3600, 5)
        told, fraction = meter.told("b.wav")
        assert told == "file 2 of 3 (b.wav), 60 min of 5.0 h of audio, 36x real time"
        assert fraction == 0.2

    def test_by_sizes(self) -> None:
        meter = Meter(self.listed((0, 100), (0, 300)), lambda: 0.0)
        meter.heard(600, 100)
        assert meter.told("b") == ("file 2 of 2 (b), 10 min of about 40 min of audio", 0.25)

    def test_by_number(self) -> None:
        meter = Meter(self.listed((0, 0), (0, 300)), lambda: 0.0)
        meter.heard(600, 0)
        assert meter.told("b") == ("file 2 of 2 (b), 10 min of audio", 0.5)

    def test_lengths(self) -> None:
        told = [shown(seconds) for seconds in (3.4, 119, 600, 7300, 5_000_000)]
        assert told == ["3 s", "119 s", "10 min", "2.0 h", "1,389 h"]


def test_hours_come_from_headers_where_the_data_do_not_tell(
    hearing: Hearing,
) -> None:
    shutil.copyfile("kaldi/call.wav", "b.wav")
    shutil.copyfile("kaldi/call.wav", "a.wav")
    told: list[tuple[str, float | None]] = []
    request = transcribe.Request("artifact", Recordings(), {}, None, False)
    for each in recordings_of(["a.wav", "b.wav"]):
        request.recordings.add(each)
    rows = list(transcribe.transcribe(request.to_data(), lambda *each: told.append(each)))
    assert len(rows) == 2
    assert told[-1] == ("file 2 of 2 (b.wav), 9 s of about 18 s of audio", 0.5)
    assert hearing.heard == ["level 0.5"] * 2


@pytest.mark.slow
def test_a_killed_command_goes_on(here: Path) -> None:
    """After SIGKILL, whole results are there, and a repeated command makes the others."""
    Path("in").mkdir()
    tone = 0.1 * np.sin(np.arange(12_000) * 0.2)
    for number in range(60):
        soundfile.write(f"in/{number:02}.wav", tone, 16_000)
    command = [sys.executable, "-m", "exporter", "transcribe", "artifact", "in", "--output", "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.5)  # its child ends with it
    there = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.txt")}
    assert 5 <= len(there) < 60
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(rf"{len(there)} of 60 are in out already", done.stderr)
    assert len(done.stdout.splitlines()) == 60 - len(there)
    texts = {path.read_text() for path in Path("out").glob("*.txt")}
    assert len(texts) == 1
    assert {name: Path("out", name).stat().st_mtime_ns for name in there} == there
