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

from exporter.cli import main
from exporter.formats import audio
from exporter.runtime import transcribe
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
    read, events = audio.read, []

    def noted(path: Path, rate: int) -> audio.Samples:
        events.append(capfd.readouterr().out.partition(":")[0])
        events.append(f"read {path}")
        return read(path, rate)

    monkeypatch.setattr(audio, "read", noted)
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
    assert main(["transcribe", "artifact", "a.wav", "bad.wav", "--json"]) == 3
    out, err = capfd.readouterr()
    error = json.loads(out)["error"]
    assert error["exit_code"] == 3
    assert error["message"].startswith("bad.wav cannot be read as audio")
    assert err.startswith("error: bad.wav cannot be read as audio")


@pytest.mark.usefixtures("step_here")
def test_options_that_the_model_does_not_take(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "artifact", "a.wav", "--language", "de"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "error: an English-only checkpoint takes no language: leave it out\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("bad.wav", "error: bad.wav cannot be read as audio (Format not recognised)."),
        ("absent.wav", "error: audio file absent.wav does not exist"),
    ],
)
def test_texts_before_a_fault_are_not_lost(fault: str, words: str) -> None:
    command = [sys.executable, "-m", "exporter", "transcribe", "artifact"]
    done = subprocess.run(
        [*command, "a.wav", "b.wav", fault, "c.wav"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["a.wav", "b.wav"]
    assert all(SENTENCE.fullmatch(line.partition(": ")[2]) for line in lines)
    assert done.stderr.splitlines()[0] == words


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
