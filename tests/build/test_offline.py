"""What is loaded calls nobody, though some of its libraries would."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.golden import GOLDEN
from tests.support.offline import listener
from tests.support.surroundings import Surroundings

CALL = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"


@pytest.fixture
def recording(tmp_path: Path) -> str:
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "tone.wav", 0.1 * np.sin(np.arange(12_000) * 0.2), 16_000)
    return "tone.wav"


@pytest.mark.slow
def test_nobody_is_called(
    tmp_path: Path, recording: str, record_property: Callable[[str, object], None]
) -> None:
    noted, heard = listener(tmp_path)
    variables = {**heard, "ORT_DISABLE_TELEMETRY": None, "CI": None, "HOME": str(tmp_path / "home")}
    done = Surroundings(variables).run(
        tmp_path, "transcribe", str(GOLDEN / "v1-onnx-int8"), recording
    )
    assert (done.returncode, done.stdout) == (0, b"one red high south three right\n"), done.stderr
    assert noted.read_text() == ""
    kept = [path.name for path in (tmp_path / "home").rglob("*")]
    assert not any("onnxruntime" in name for name in kept), "it keeps what it will tell"
    subprocess.run([sys.executable, "-c", CALL], env=dict(heard), check=True)
    assert noted.read_text() == "connect \n", "it hears nothing, so the test shows nothing"
    record_property("promise", "P14")
    record_property("cases", 1)
