"""`exporter transcribe` with a real artifact: texts come one by one, and faults cost no others."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.artifact import build_registry, store
from exporter.cli import main
from exporter.formats import audio
from exporter.recognition import transcribe
from exporter.system import worker
from exporter.system.progress import Progress
from tests.support.golden import GOLDEN

SENTENCE = re.compile(r"one( \w+){5}")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an artifact of an earlier release, and recordings."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "v1-onnx-int8", "artifact")
    tone = 0.1 * np.sin(np.arange(12_000) * 0.2)
    for name in ("a", "b", "c"):
        soundfile.write(f"{name}.wav", tone, 16_000)
    Path("bad.wav").write_text("hello")
    return tmp_path


@pytest.fixture
def step_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side in this process, which spares the seconds of importing."""

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


@pytest.mark.usefixtures("step_here")
def test_each_file_is_read_when_the_one_before_is_printed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, events = audio.load, []

    def noted(path: Path, *how: Any) -> Any:
        events.append(capfd.readouterr().out.partition(":")[0])
        events.append(f"read {path}")
        return load(path, *how)

    monkeypatch.setattr(audio, "load", noted)
    assert main(["transcribe", "artifact", "a.wav", "b.wav", "c.wav"]) == 0
    events.append(capfd.readouterr().out.partition(":")[0])
    assert events == ["", "read a.wav", "a.wav", "read b.wav", "b.wav", "read c.wav", "c.wav"]


@pytest.mark.usefixtures("step_here")
def test_json_is_one_document(capfd: pytest.CaptureFixture[str]) -> None:
    call = ["transcribe", "artifact", "a.wav", "b.wav", "--timestamps", "--json"]
    assert main(call) == 0
    document = json.loads(capfd.readouterr().out)
    assert [row["audio"] for row in document["transcripts"]] == ["a.wav", "b.wav"]
    for row in document["transcripts"]:
        assert SENTENCE.fullmatch(row["text"])
        assert row["segments"][0].keys() == {"start_s", "end_s", "text"}


@pytest.mark.usefixtures("step_here")
def test_a_file_that_cannot_be_used_costs_no_other_text(capfd: pytest.CaptureFixture[str]) -> None:
    Path("empty.wav").touch()
    Path("call.raw").write_bytes(bytes(3200))
    Path("folder.wav").mkdir()
    Path("link.flac").symlink_to("nowhere.flac")
    soundfile.write("late.flac", np.zeros(16_000 * 20), 16_000)
    whole = Path("late.flac").read_bytes()
    Path("late.flac").write_bytes(whole[: len(whole) * 2 // 3])
    bad = {
        "bad.wav": "bad.wav cannot be read as audio (Format not recognised).",
        "empty.wav": "audio file empty.wav is empty: 0 bytes",
        "call.raw": "call.raw cannot be read as audio: it has no header",
        "folder.wav": "audio file folder.wav is not a regular file",
        "link.flac": "audio file link.flac is a link to a file that does not exist",
        "late.flac": "late.flac cannot be read as audio (",
        "a" * 300: f"audio file {'a' * 200} cannot be opened: File name too long",
        "absent.wav": "audio file absent.wav does not exist",
    }
    names = ["a.wav", *bad, "b.wav"]
    assert main(["transcribe", "artifact", *names]) == 3
    out, err = capfd.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["a.wav", "b.wav"]
    told = [line.strip() for line in err.splitlines()]
    for words in bad.values():
        assert any(line.startswith(f"error: {words}") for line in told), words
    assert told[-1] == f"error: {len(bad)} of {len(names)} files could not be transcribed"
    assert main(["transcribe", "artifact", *names, "--json"]) == 3
    document = json.loads(capfd.readouterr().out)
    assert document["error"] == {"message": told[-1].removeprefix("error: "), "exit_code": 3}
    rows = document["transcripts"]
    assert [row["audio"] for row in rows] == names
    assert [row["audio"] for row in rows if "error" in row] == list(bad)
    assert SENTENCE.fullmatch(rows[-1]["text"])


@pytest.mark.usefixtures("step_here")
@pytest.mark.parametrize("size", ["1", "2", "8"])
def test_a_long_file_that_ends_early_costs_no_other_text(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    """Long files are decoded together, and only then is the fault of one seen."""
    monkeypatch.setattr(audio, "WHOLE_S", 2)
    tone = 0.1 * np.sin(np.arange(16_000 * 30) * 0.2)
    for name in ("one", "late", "two"):
        soundfile.write(f"{name}.flac", tone, 16_000)
    whole = Path("late.flac").read_bytes()
    Path("late.flac").write_bytes(whole[: len(whole) * 2 // 3])
    names = ["a.wav", "one.flac", "late.flac", "two.flac", "b.wav"]
    assert main(["transcribe", "artifact", *names, "--batch-size", size]) == 3
    out, err = capfd.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        name for name in names if name != "late.flac"
    ]
    assert err.count("late.flac cannot be read as audio") == 1


@pytest.mark.usefixtures("step_here")
def test_speech_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """A tone is none."""
    assert main(["transcribe", "artifact", "a.wav", "--vad", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["transcripts"]
    assert row == {"audio": "a.wav", "text": "", "language": "en", "segments": []}
    assert main(["transcribe", "artifact", "a.wav", "--long-form", "chunked"]) == 2
    assert "long_form: chunked cuts at silence: add vad: true" in capfd.readouterr().err


@pytest.mark.usefixtures("step_here")
def test_a_single_bad_file_is_one_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "artifact", "bad.wav"]) == 3
    assert capfd.readouterr().err.count("error:") == 1


@pytest.mark.usefixtures("step_here")
def test_names_that_are_not_utf_8(capfd: pytest.CaptureFixture[str]) -> None:
    """A name in Latin-1 is a name like any other, and what is printed is valid text."""
    latin = [os.fsdecode(b"caf\xe9.wav"), os.fsdecode(b"\xff\xfe.raw")]
    shutil.copyfile("a.wav", latin[0])
    Path(latin[1]).write_bytes(bytes(3200))
    assert main(["transcribe", "artifact", *latin]) == 3
    out, err = capfd.readouterr()
    assert out.startswith(r"caf\xe9.wav: one")
    assert r"error: \xff\xfe.raw cannot be read as audio: it has no header" in err
    assert main(["transcribe", "artifact", *latin, "--json"]) == 3
    text = capfd.readouterr().out
    assert [row["audio"] for row in json.loads(text)["transcripts"]] == [
        r"caf\xe9.wav",
        r"\xff\xfe.raw",
    ]
    assert "\\udc" not in text


@pytest.mark.usefixtures("step_here")
def test_options_that_the_model_does_not_take(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "artifact", "a.wav", "--language", "de"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "error: an English-only checkpoint takes no language: leave it out\n"


@pytest.mark.usefixtures("step_here")
def test_a_format_is_of_one_recording_or_of_files(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "artifact", "a.wav", "--format", "srt"]) == 0
    number, times, text, *_ = capfd.readouterr().out.splitlines()
    assert number == "1"
    assert re.fullmatch(r"00:00:00,000 --> 00:00:00,\d{3}", times)
    assert SENTENCE.fullmatch(text)
    assert main(["transcribe", "artifact", "a.wav", "b.wav", "--format", "vtt"]) == 2
    assert "give --output DIR" in capfd.readouterr().err
    assert main(["transcribe", "artifact", "a.wav", "b.wav", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["audio"] for row in rows] == ["a.wav", "b.wav"]
    assert main(["transcribe", "artifact", "a.wav", "--format", "json"]) == 0
    assert SENTENCE.fullmatch(json.loads(capfd.readouterr().out)["transcripts"][0]["text"])


@pytest.mark.usefixtures("step_here")
def test_folders_and_manifests_name_recordings(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("inner/deep/d.WAV", "inner/e.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile("a.wav", name)
    Path("inner/notes.txt").write_text("no audio")
    Path("list.jsonl").write_text('{"audio_filepath": "b.wav"}\n{"audio": "inner/e.wav"}\n')
    assert main(["transcribe", "artifact", "inner", "list.jsonl", "a.wav"]) == 0
    names = [line.partition(":")[0] for line in capfd.readouterr().out.splitlines()]
    assert names == ["inner/deep/d.WAV", "inner/e.wav", "b.wav", "inner/e.wav", "a.wav"]
    Path("list.jsonl").write_text('{"audio": 3}\n')
    assert main(["transcribe", "artifact", "list.jsonl"]) == 3
    assert "list.jsonl:1: audio must be a string" in capfd.readouterr().err


@pytest.mark.usefixtures("step_here")
def test_a_folder_of_results_is_gone_on_with(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in/x/a.wav", "in/y/a.wav", "in/bad.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(name).name, name)
    call = ["transcribe", "artifact", "in", "--output", "out", "--format", "tsv"]
    assert main(call) == 3
    assert capfd.readouterr().out.splitlines() == ["out/x/a.tsv", "out/y/a.tsv"]
    head, row = Path("out/x/a.tsv").read_text().splitlines()
    assert (head, row.split("\t")[0]) == ("start\tend\ttext", "0")
    Path("out/y/a.tsv").unlink()
    Path("in/bad.wav").unlink()
    Path("out/x/a.tsv").write_text("kept")
    assert main(call) == 0
    out, err = capfd.readouterr()
    assert out == "out/y/a.tsv\n"
    assert "1 of 2 are in out already" in err
    assert Path("out/x/a.tsv").read_text() == "kept"
    monkeypatch.setattr(transcribe, "transcribe_files", None)  # nothing is opened
    assert main([*call, "--json"]) == 0
    capfd.readouterr()
    assert main(["transcribe", "artifact", "in/x/a.wav", "in/y/a.wav", "--output", "out"]) == 2
    assert "would both write a" in capfd.readouterr().err


@pytest.mark.parametrize("built_here", [True, False])
def test_only_what_was_built_here_runs_in_this_process(
    built_here: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger's graphs run where they can do no harm."""
    monkeypatch.setenv("EXPORTER_STATE", str(tmp_path / "state"))
    if built_here:
        build_registry.record(store.read_manifest(Path("artifact")))
    started = []
    monkeypatch.setattr(worker, "run", lambda step, *_, **__: started.append(step))
    assert main(["transcribe", "artifact", "a.wav"]) == 0
    out = capfd.readouterr().out
    if built_here:
        assert SENTENCE.fullmatch(out.strip())
        assert not started
    else:
        assert (out, started) == ("", ["exporter.recognition.transcribe:transcribe"])


START = """
import sys
from exporter.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "pydantic", "onnx", "huggingface_hub", "optimum"}
print(code, *sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_the_command_itself_imports_nothing_heavy() -> None:
    """What it starts, in a process without the user's credentials, is another matter."""
    command = [sys.executable, "-c", START, "transcribe", "artifact", "a.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.slow
def test_texts_around_a_fault_are_not_lost() -> None:
    command = [sys.executable, "-m", "exporter", "transcribe", "artifact"]
    names = ["a.wav", "b.wav", "bad.wav", os.fsdecode(b"\xe9.wav"), "c.wav"]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["a.wav", "b.wav", "c.wav"]
    assert all(SENTENCE.fullmatch(line.partition(": ")[2]) for line in lines)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: bad.wav cannot be read as audio (Format not recognised).",
        r"error: audio file \xe9.wav does not exist",
        "error: 2 of 5 files could not be transcribed",
    ]


@pytest.mark.slow
def test_a_terminal_shows_texts_whole_beside_the_bar() -> None:
    """The bar is drawn over; what is printed stays, a line for each file."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "exporter", "transcribe", "artifact", "a.wav", "b.wav"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        drawn = b""
        try:
            while piece := os.read(leader, 4096):
                drawn += piece
        except OSError:  # the other side is closed
            pass
    os.close(leader)
    assert process.returncode == 0
    text = drawn.decode()
    assert re.search(r"file [12] of 2 \([ab]\.wav\)", text)
    for name in ("a", "b"):  # from the start of a line that was erased, to its end
        assert re.search(rf"(?:\x1b\[K|\n|\r){name}\.wav: one[ \w]+\r\n", text)
