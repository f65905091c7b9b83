"""Bad input through the real command line: the exit code, one to three lines, nothing lost.

Every case runs real builds (torch-int8, the quickest target) on a real checkpoint folder.
"""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter import cli, recipe
from exporter.artifact import store
from exporter.build import pipeline
from exporter.system.progress import silent

RECIPE = """\
name: tiny
checkpoint: checkpoint
targets:
  - kind: torch-int8
decoding: {language: en, task: transcribe}
data: {clips: clips}
gate: {min_clips: 1, max_latency_ratio: 100, max_wer_increase: 1, max_reference_wer: 1000}
"""
Place = Path
Break = Callable[[Place], object]


def fill(folder: Path, checkpoint: Path) -> None:
    """Make a user's folder of it: recipe, checkpoint and clips, all of them good."""
    shutil.copytree(checkpoint, folder / "checkpoint")
    (folder / "clips").mkdir()
    samples = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(folder / "clips" / "a.flac", samples, 16000)
    row = {"audio": "a.flac", "text": "two one"}
    (folder / "clips" / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "tiny.yaml").write_text(RECIPE)


@pytest.fixture
def place(tmp_path: Path, tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder."""
    fill(tmp_path, tiny_whisper)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, old: str, new: str) -> Break:
    def damage(place: Path) -> None:
        text = (place / name).read_text()
        assert old in text
        (place / name).write_text(text.replace(old, new))

    return damage


def remove(*names: str) -> Break:
    return lambda place: [(place / "checkpoint" / name).unlink(missing_ok=True) for name in names]


def truncate(place: Path) -> None:
    path = place / "checkpoint" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capfd.readouterr()
    code = cli.main(list(arguments))
    return code, capfd.readouterr().err.strip()


BAD: dict[str, tuple[Break, int, str]] = {
    "unknown key": (
        write("tiny.yaml", "checkpoint:", "chekpoint:"),
        2,
        "did you mean `checkpoint`?",
    ),
    "wrong type": (write("tiny.yaml", "min_clips: 1", "min_clips: few"), 2, "tiny.yaml:7:"),
    "unknown target": (write("tiny.yaml", "torch-int8", "torch-int9"), 2, "torch-int8"),
    "unknown option": (
        write("tiny.yaml", "torch-int8", "onnx-int8\n    preste: avx2"),
        2,
        "did you mean `preset`?",
    ),
    "pattern without match": (
        write("tiny.yaml", "gate:", "quantization: {modules: {nothing: float}}\ngate:"),
        2,
        "tiny.yaml:7:26: quantization.modules.nothing: 'nothing' matches no module",
    ),
    "unknown language": (write("tiny.yaml", "language: en", "language: xx"), 2, "'xx'"),
    "unknown family": (
        write("checkpoint/config.json", '"whisper"', '"lightglue"'),
        3,
        "'lightglue' is not one of: data2vec-audio, hubert",
    ),
    "missing checkpoint": (
        write("tiny.yaml", "checkpoint: checkpoint", "checkpoint: ./absent"),
        3,
        "no checkpoint folder",
    ),
    "truncated weights": (truncate, 3, "model.safetensors: damaged or truncated"),
    "another config": (
        write("checkpoint/config.json", '"decoder_ffn_dim": ', '"decoder_ffn_dim": 1'),
        3,
        "do not fit config.json",
    ),
    "no tokenizer": (remove("tokenizer.json", "vocab.json"), 3, "missing tokenizer.json"),
    "no preprocessor": (remove("preprocessor_config.json"), 3, "preprocessor_config.json"),
    "another model's features": (
        write("checkpoint/preprocessor_config.json", '"feature_size": 80', '"feature_size": 128'),
        3,
        "128 mel bins, the model 80",
    ),
    "clips that are not there": (
        write("tiny.yaml", "clips: clips", "clips: clip"),
        2,
        "tiny.yaml:6",
    ),
    "something in the way": (
        lambda place: (place / "artifacts" / "tiny" / "torch-int8").mkdir(parents=True),
        2,
        "is not an artifact",
    ),
    "heads that do not divide": (
        write(
            "checkpoint/config.json", 'encoder_attention_heads": 2', 'encoder_attention_heads": 5'
        ),
        3,
        "d_model (64) is no multiple of the 5 attention heads",
    ),
    "another vocabulary": (
        write("checkpoint/vocab.json", '"!": 0', '"!": 10'),
        3,
        "vocab.json says that '!' is number 10",
    ),
    "no generation config": (remove("generation_config.json"), 3, "generation_config.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_build_that_cannot_be(place: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    damage, code, told = BAD[case]
    damage(place)
    found, error = run(capfd, "build", "tiny.yaml")
    assert found == code, error
    assert told in error
    assert 1 <= len(error.splitlines()) <= 3
    assert error.startswith(("error: ", "tiny.yaml:"))
    assert [path for path in place.glob("artifacts/**/*") if path.is_file()] == []


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, tiny_whisper: Path) -> tuple[Path, Path]:
    """A user's folder with an artifact, which knows its place, and a copy of it."""
    folder = tmp_path_factory.mktemp("once")
    fill(folder, tiny_whisper)
    wanted = recipe.read(folder / "tiny.yaml")
    pipeline.build(wanted, output=folder / "artifacts", progress=silent)
    return folder, Path(shutil.copytree(folder, tmp_path_factory.mktemp("kept") / "copy"))


@pytest.fixture
def built(once: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The artifact in the user's folder, where all is as it was after the build."""
    folder, kept = once
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    monkeypatch.chdir(folder)
    return folder / "artifacts" / "tiny" / "torch-int8"


@pytest.mark.slow
def test_an_artifact_that_stands(built: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Kept as it is by the same recipe, by another only with --force; never served damaged."""
    before = store.verify(built)
    assert run(capfd, "build", "tiny.yaml")[0] == 0
    other = (
        "build",
        "tiny.yaml",
        "--set",
        "quantization.default={scheme: dynamic-int8, per_channel: false}",
    )
    code, error = run(capfd, *other)
    assert (code, "--force" in error) == (2, True)
    assert store.verify(built) == before
    assert run(capfd, "build", "tiny.yaml", "--set", "gate.max_wer_increase=0.5")[0] == 0
    assert store.verify(built).build == before.build  # sealed again, under the new gate
    code, error = run(capfd, "transcribe", str(built), "clips/a.flac", "--language", "klingon")
    assert (code, "'klingon'" in error) == (2, True)
    with store.stage(built):
        code, error = run(capfd, *other, "--force")
    assert (code, "another build" in error) == (9, True)
    assert run(capfd, *other, "--force")[0] == 0
    (group,) = store.verify(built).quantization
    assert group.parameters == {"bits": 8, "per_channel": False}

    weights = bytearray((built / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (built / "model.safetensors").write_bytes(weights)
    for command in ("validate", "transcribe"):
        audio = ["clips/a.flac"] if command == "transcribe" else []
        code, error = run(capfd, command, str(built), *audio)
        assert (code, "model.safetensors does not match" in error) == (5, True), error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"audio": "absent.flac", "text": "x"}, "absent.flac"),
        ({"audio": "noise.wav", "text": "x"}, "noise.wav"),
        ({"audio": "a.flac"}, "manifest.jsonl:2"),
    ],
    ids=["missing", "unreadable", "no text"],
)
def test_data_that_cannot_be_used(
    built: Path, capfd: pytest.CaptureFixture[str], row: dict[str, str], told: str
) -> None:
    clips = built.parents[2] / "clips"
    (clips / "noise.wav").write_bytes(b"not audio")
    with (clips / "manifest.jsonl").open("a") as manifest:
        manifest.write(json.dumps(row) + "\n")
    code, error = run(capfd, "validate", str(built))
    assert (code, told in error) == (3, True), error
    assert 1 <= len(error.splitlines()) <= 3
    assert not (built / "report.json").exists()


@pytest.mark.slow
def test_a_disk_that_fills(place: Path) -> None:
    """A limit on file size stands in for the full disk."""

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "exporter", "build", "tiny.yaml"]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, check=False, preexec_fn=little_room
    )
    assert done.returncode == 8, done.stderr
    assert "File too large" in done.stderr
    assert left_in(place) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build(place: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "exporter", "build", "tiny.yaml"]
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True) as build:
        deadline = time.monotonic() + 120
        while not list(place.glob("artifacts/tiny/.torch-int8.partial-*")):
            assert time.monotonic() < deadline
            assert build.poll() is None
            time.sleep(0.05)
        build.send_signal(number)
        assert build.wait(60) == code
    assert left_in(place) == []
    assert not [process for process in Path("/proc").glob("[0-9]*") if works_in(process, place)]


def left_in(place: Path) -> list[str]:
    """What a failed build left, but for the lock that guards the place."""
    return sorted(p.name for p in place.glob("artifacts/tiny/*") if not p.name.endswith(".lock"))


def works_in(process: Path, place: Path) -> bool:
    try:
        return str(place) in (process / "cmdline").read_text()
    except OSError:
        return False
