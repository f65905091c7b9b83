"""Measuring in a fresh process: what comes back, and what its death is told as."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.errors import (
    BuildError,
    CheckpointError,
    MachineError,
    ResourceError,
)
from exporter.recipe import Decoding
from exporter.recognition.recogniser import Recogniser
from exporter.system import worker
from exporter.system.progress import Progress
from exporter.validate.measure.latency import MAX_PASSES, Request, measure_fresh, time_interleaved
from exporter.validate.measure.model import ModelSpec


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    paths = []
    random = np.random.default_rng(0)
    for number, seconds in enumerate((0.4, 1.0, 2.0, 5.0)):
        paths.append(tmp_path / f"{number}.wav")
        soundfile.write(paths[-1], 0.1 * random.normal(size=int(16000 * seconds)), 16000)
    return Request(
        spec=spec(tmp_path / "nowhere"),
        clips=tuple(paths),
        shapes=(paths[0], paths[2], paths[3]),
        repeat_s=0.0,
    )


def spec(model: Path) -> ModelSpec:
    """An original, decoded as these tests do."""
    decoding = Decoding(language="en", task="transcribe")
    return ModelSpec(model=model, original=True, threads=1, decoding=decoding)


def quiet(_what: str, _fraction: float | None) -> None:
    """Ignore progress."""


@pytest.mark.slow
def test_a_measurement_is_complete(request_: Request, tiny_whisper: Path) -> None:
    told: list[float | None] = []
    request = request_.model_copy(update={"spec": spec(tiny_whisper)})
    measured = measure_fresh(request, "original", lambda _what, done: told.append(done))
    assert len(measured.seconds) == 4
    assert min(measured.seconds) > 0
    assert [len(shape.lengths_s) for shape in measured.shapes] == [1, 2, 3, 1]
    assert all(shape.finite and not shape.error for shape in measured.shapes)
    assert measured.shapes[1].likeness == 1.0
    assert measured.peak_rss_bytes > 50e6
    assert measured.threads == 1
    assert {0.0, 0.25, 0.5, 0.75} <= set(told)


@pytest.mark.slow
def test_two_take_turns(
    request_: Request, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, steps_here: None
) -> None:
    request = request_.model_copy(update={"spec": spec(tiny_whisper), "repeat_s": 60})
    heard: list[tuple[object, str]] = []
    decode = Recogniser.decode

    def noted(self: Recogniser, sounds: Any, decoding: Decoding) -> Any:
        heard.append((self, str(len(sounds[0]))))
        return decode(self, sounds, decoding)

    monkeypatch.setattr(Recogniser, "decode", noted)
    seconds = time_interleaved([request, request], "it", quiet)
    assert [len(each) for each in seconds] == [4, 4]
    assert min(map(min, seconds)) > 0
    turns = heard[2 * len(request.shapes) :]
    assert len(turns) == 2 * 4 * MAX_PASSES
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    assert all(one[0] is not other[0] and one[1] == other[1] for one, other in pairs)
    assert len({id(one[0]) for one, _ in pairs}) == 2  # either is first at times


def warn(_asked: dict[str, Any], _progress: Progress) -> dict[str, Any]:
    """A step that has something to say; what libraries say is not for the user."""
    logging.getLogger("exporter.anywhere").warning("take %s", "care")
    logging.getLogger("library").warning("deprecated")
    return {}


def test_the_childs_warnings_are_ours(caplog: pytest.LogCaptureFixture) -> None:
    worker.run(f"{__name__}:warn", {}, quiet, what="it")
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["take care"]


@pytest.mark.slow
def test_the_childs_error_is_ours(request_: Request) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        measure_fresh(request_, "original", quiet)


@pytest.mark.parametrize(
    ("ending", "expected", "words"),
    [
        (f"kill -{int(signal.SIGILL)} $$", MachineError, "illegal instruction"),
        (f"kill -{int(signal.SIGKILL)} $$", ResourceError, "memory"),
        (f"kill -{int(signal.SIGSEGV)} $$", BuildError, "SIGSEGV"),
        ("echo Traceback >&2; echo 'ValueError: odd' >&2; exit 1", RuntimeError, "ValueError: odd"),
    ],
)
def test_a_death_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request_: Request,
    ending: str,
    expected: type[Exception],
    words: str,
) -> None:
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\necho '[\"clip 3 of 4 (2.wav)\", 0.5]'\n{ending}\n")
    child.chmod(0o755)
    monkeypatch.setattr("exporter.system.worker.sys.executable", str(child))
    with pytest.raises(expected, match=words) as caught:
        measure_fresh(request_, "onnx-int8", quiet)
    assert "onnx-int8: clip 3 of 4 (2.wav)" in str(caught.value)


def test_an_interrupt_ends_the_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request_: Request
) -> None:
    child, seen = tmp_path / "child", tmp_path / "pid"
    line = '["clip 1 of 4 (0.wav)", 0.0]'
    child.write_text(f"#!/bin/sh\necho $$ > {seen}\necho '{line}'\nexec sleep 60\n")
    child.chmod(0o755)
    monkeypatch.setattr("exporter.system.worker.sys.executable", str(child))

    def interrupt(_what: str, fraction: float | None) -> None:
        if fraction is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_fresh(request_, "x", interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen.read_text()), 0)
