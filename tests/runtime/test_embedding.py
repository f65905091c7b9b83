"""The examples of docs/embedding.md: compiled, and run without Python on artifacts."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
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


def compiled(repository: Path, name: str, folder: Path) -> Path:
    """An example, compiled as its first lines say."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    assert compiler is not None
    header = repository / "exporter/targets/aoti/kernels/host"
    source = repository / "docs/embedding" / f"{name}.cpp"
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{header}"]
    subprocess.run([compiler, *flags, source, "-o", folder / name, "-ldl"], check=True)
    return folder / name


@pytest.fixture(scope="module")
def program(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(repository, "transcribe", tmp_path_factory.mktemp("program"))


@dataclass(frozen=True)
class Whisper:
    """An artifact of the demo's Whisper, and the example with the graphs that it is given."""

    artifact: Path
    program: Path
    graphs: Path

    def says(self, *clips: Path) -> list[str]:
        """The texts of clips, without Python."""
        done = run(self.program, self.artifact, self.graphs, *clips)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture(scope="module")
def whisper(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    folder = tmp_path_factory.mktemp("whisper")
    greedy = "decoding: {language: en, task: transcribe}\n"
    checkpoint = repository / "recipes/demo/whisper"
    (made,) = build_tiny(folder, checkpoint, "[{kind: aoti}]", greedy).values()
    graphs = folder / "graphs"
    graphs.mkdir()
    for name in ("encoder", "decoder"):
        with zipfile.ZipFile(made / f"{name}.pt2") as package:
            (graphs / f"{name}.so").write_bytes(package.read(f"{name}/{pt2.LIBRARY}"))
            (graphs / f"{name}.json").write_bytes(package.read(f"{name}/extra/exporter.json"))
    return Whisper(made, compiled(repository, "whisper", folder), graphs)


@pytest.fixture(scope="module")
def clips(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Clips of the demo within its window of 10 s, as WAV files."""
    folder, made = tmp_path_factory.mktemp("clips"), []
    for path in sorted((repository / "recipes/demo/clips").glob("short-*.flac"))[:12]:
        samples, rate = soundfile.read(path, dtype="int16")
        made.append(folder / f"{path.stem}.wav")
        soundfile.write(made[-1], samples, rate, subtype="PCM_16")
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


def test_a_whisper_in_cpp_writes_what_the_command_writes(
    whisper: Whisper, clips: list[Path]
) -> None:
    asked = [sys.executable, "-m", "exporter", "transcribe", whisper.artifact, *clips, "--json"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    expected = [one["text"] for one in json.loads(told)["transcripts"]]
    assert whisper.says(*clips) == expected
    assert len({*expected}) == len(clips)


def test_a_whisper_in_cpp_finds_the_language_that_nothing_names(
    whisper: Whisper, clips: list[Path], tmp_path: Path
) -> None:
    named = whisper.says(clips[0])
    copied = Path(shutil.copytree(whisper.artifact, tmp_path / "artifact"))
    for name, without in {
        "generation_config.json": ("language",),
        "manifest.json": ("decoding", "language"),
    }.items():
        values = json.loads((copied / name).read_text())
        *outer, key = without
        del (values[outer[0]] if outer else values)[key]
        (copied / name).write_text(json.dumps(values))
    vocabulary = json.loads((copied / "vocab.json").read_text(encoding="utf-8"))
    (copied / "vocab.json").write_text(json.dumps(vocabulary))  # with \u0120 for a space
    assert replace(whisper, artifact=copied).says(clips[0]) == named


def test_a_whisper_in_cpp_tells_what_it_cannot_do(whisper: Whisper, tmp_path: Path) -> None:
    clip = tmp_path / "long.wav"
    soundfile.write(clip, tones(12.0), 16_000)
    refused = run(whisper.program, whisper.artifact, whisper.graphs, clip)
    assert refused.returncode == 1
    assert refused.stderr == "a recording that is longer than a window\n"
    for name in ("config.json", "vocab.json", "weights.safetensors"):
        copied = Path(shutil.copytree(whisper.artifact, tmp_path / name))
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content[: len(content) // 2])
        refused = run(whisper.program, copied, whisper.graphs, clip)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), name
