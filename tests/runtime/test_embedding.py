"""The example of docs/embedding.md: compiled, and run without Python on an artifact."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import soundfile

from exporter.formats import pt2
from exporter.recognition.load import load
from exporter.system.hardware import describe
from tests.support.built import build_tiny
from tests.support.tiny_ctc import make_ctc, tones

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not describe().isa.startswith(("x86-64-v3", "x86-64-v4")),
        reason="aoti compiles for x86-64-v3 and up",
    ),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    checkpoint = make_ctc(folder / "checkpoint", "wav2vec2")
    (made,) = build_tiny(folder, checkpoint, "[{kind: aoti}]").values()
    return made


@pytest.fixture(scope="module")
def program(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as its first lines say."""
    made = tmp_path_factory.mktemp("program") / "transcribe"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    assert compiler is not None
    header = repository / "exporter/targets/aoti/kernels/host"
    source = repository / "docs/embedding/transcribe.cpp"
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{header}"]
    subprocess.run([compiler, *flags, source, "-o", made, "-ldl"], check=True)
    return made


def run(program: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [program, *arguments]
    return subprocess.run(command, env={}, capture_output=True, text=True, check=False)


def test_a_program_in_cpp_transcribes_as_python_does(
    artifact: Path, program: Path, tmp_path: Path
) -> None:
    library = tmp_path / "graph.so"
    with zipfile.ZipFile(artifact / "model.pt2") as package:
        library.write_bytes(package.read(f"model/{pt2.LIBRARY}"))
    clips = [tmp_path / f"{seed}.wav" for seed in range(3)]
    for seed, clip in enumerate(clips):
        soundfile.write(clip, tones(0.6 + 0.7 * seed, seed), 16_000)
    done = run(program, artifact, library, *clips)
    assert done.returncode == 0, done.stderr
    expected = [transcript.text for transcript in load(artifact).transcribe(clips)]
    assert [line.strip() for line in done.stdout.splitlines()] == expected
    assert any(expected)

    soundfile.write(tmp_path / "other.wav", tones(1.0), 8_000)
    refused = run(program, artifact, library, tmp_path / "other.wav")
    assert refused.returncode == 1
    assert "is not 16-bit mono of 16 kHz" in refused.stderr


def test_what_a_program_gets_wrong_is_told(program: Path, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "graph.so").write_bytes(b"")
    refused = run(program, artifact, tmp_path / "graph.so", tmp_path / "no.wav")
    assert refused.returncode == 1
    assert "graph.so" in refused.stderr
