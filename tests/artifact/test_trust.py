"""The gate before code: only what this machine built, or its user vouches for, is ever opened."""

import json
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exporter import recipe
from exporter.artifact import build_registry, store, trust
from exporter.artifact.manifest import MANIFEST, Manifest
from exporter.bench import run as benching
from exporter.bench import timing
from exporter.build.pipeline import build
from exporter.errors import CheckpointError, ExporterError, MachineError, TrustError
from exporter.recipe import Decoding
from exporter.recognition import load
from exporter.system.progress import silent
from exporter.validate import validate
from exporter.validate.measure.latency import Request, measure_fresh
from exporter.validate.measure.model import ModelSpec
from tests.support.recipes import write_recipe
from tests.support.sealed import manifest, seal, write_package, write_safetensors

# Loaded by every Python process that finds it, children included: notes each loader's import, but
# not the question whether it is installed.
HOOK = """
import importlib.util
import sys
def is_question():
    frame = sys._getframe(2)
    while frame and frame.f_code is not importlib.util.find_spec.__code__:
        frame = frame.f_back
    return frame is not None
class Noting:
    def find_spec(self, name, path=None, target=None):
        loaders = "torch", "transformers", "onnxruntime", "onnx", "safetensors", "optimum"
        if name in loaders and not is_question():
            with open({noted!r}, "a") as notes:
                notes.write(name + chr(10))
sys.meta_path.insert(0, Noting())
"""
# A library that says so when it is loaded, and which key it found there.
LIBRARY = """
#include <cstdio>
#include <cstdlib>
__attribute__((constructor)) static void sprung() {
  const char *key = std::getenv("HF_TOKEN");
  if (FILE *file = std::fopen("%s", "w")) { std::fputs(key ? key : "none", file); }
}
"""
Call = Callable[[Path, bool], object]


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPORTER_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "built"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"audio": "clip.wav", "text": "one"}))
    return tmp_path / "clip.wav"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An artifact with native code that came from elsewhere."""
    return seal(tmp_path / "artifacts" / "aoti")


def measured(folder: Path, trusted: bool) -> object:
    spec = ModelSpec(model=folder, original=False, trust=trusted, threads=1, decoding=Decoding())
    return measure_fresh(Request(spec=spec, clips=(), shapes=()), "it", lambda _what, _done: None)


CALLS: dict[str, Call] = {
    "runtime.load": lambda folder, trusted: load.load(folder, trust=trusted),
    "validate": lambda folder, trusted: validate([folder], trust=trusted),
    "measure": measured,
    "bench": lambda folder, trusted: benching.bench(
        [folder], benching.Workload(runs=1), trust=trusted
    ),
    "stopwatch": lambda folder, trusted: timing.opened(
        folder, original=False, threads=1, trust=trusted, decoding=Decoding()
    ),
}


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("call", CALLS)
def test_foreign_code_is_refused_by_everything_that_loads(
    call: str, foreign: Path, clip: Path
) -> None:
    with pytest.raises(TrustError, match=r"not built on this machine \(encoder\.pt2\)") as refused:
        CALLS[call](foreign, False)
    assert refused.value.exit_code == 5
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize("call", ["runtime.load", "measure", "stopwatch"])
@pytest.mark.parametrize("way", ["the user's word", "the registry"])
def test_what_somebody_answers_for_reaches_its_loader(call: str, way: str, foreign: Path) -> None:
    """There the stub of a library is no library."""
    if way == "the registry":
        build_registry.record(store.read_manifest(foreign))
    with pytest.raises(MachineError, match="cannot be loaded"):
        CALLS[call](foreign, way == "the user's word")


COMMANDS = {
    "transcribe": ["transcribe", "ARTIFACT", "clip.wav"],
    "validate": ["validate", "ARTIFACT", "--data", "."],
    "bench": ["bench", "ARTIFACT", "--runs", "1"],
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, clip: Path, repository: Path) -> Run:
    """Run a command in a fresh process; give its code, its errors, and the loaders it imported."""
    noted = tmp_path / "noted"
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK.format(noted=str(noted)))
    path = os.pathsep.join([str(tmp_path / "hook"), str(repository)])
    environment = {**os.environ, "PYTHONPATH": path, "HF_TOKEN": "hf_canary"}

    def running(folder: Path, command: str, *options: str) -> tuple[int, str, str]:
        words = [str(folder) if word == "ARTIFACT" else word for word in COMMANDS[command]]
        done = subprocess.run(
            [sys.executable, "-m", "exporter", *words, *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr, noted.read_text() if noted.exists() else ""

    return running


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_loader_is_imported_before_the_refusal(command: str, foreign: Path, run: Run) -> None:
    code, error, noted = run(foreign, command)
    assert (code, noted) == (5, "")
    assert error.startswith(f"error: {foreign} holds code")
    assert len(error.strip().splitlines()) == 3
    assert "--trust" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_nor_where_bytes_are_not_those_that_were_sealed(
    command: str, foreign: Path, run: Run, record_property: Callable[[str, object], None]
) -> None:
    build_registry.record(store.read_manifest(foreign))
    package = bytearray((foreign / "encoder.pt2").read_bytes())
    package[60] ^= 1
    (foreign / "encoder.pt2").write_bytes(package)
    code, error, noted = run(foreign, command)
    assert code == 5, error
    assert "encoder.pt2 does not match the manifest" in error
    assert noted == ""
    record_property("promise", "P6")
    record_property("cases", 1)


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("command", COMMANDS)
def test_nor_where_a_package_is_not_one_of_ours(command: str, tmp_path: Path, run: Run) -> None:
    write_package(tmp_path / "encoder.pt2")
    whole = (tmp_path / "encoder.pt2").read_bytes()
    folder = seal(tmp_path / "aoti", files={"encoder.pt2": whole + b"beside"})
    code, error, noted = run(folder, command, "--trust")
    assert code == 5, error
    assert "encoder.pt2 has no directory at its very end" in error
    assert noted == ""


def test_native_code_runs_where_no_key_is(tmp_path: Path, run: Run) -> None:
    """And the trap works: what does not spring without trust does with it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no compiler")
    canary, source, library = (tmp_path / name for name in ("canary", "trap.cpp", "trap.so"))
    source.write_text(LIBRARY % canary)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    write_package(tmp_path / "encoder.pt2", library.read_bytes())
    write_safetensors(tmp_path / "weights.safetensors")
    names = ("encoder.pt2", "weights.safetensors")
    folder = seal(tmp_path / "aoti", files={name: (tmp_path / name).read_bytes() for name in names})
    for command in COMMANDS:
        assert run(folder, command)[0] == 5
    assert not canary.exists()
    code, error, noted = run(folder, "transcribe", "--trust")
    assert code == 6, error
    assert canary.read_text() == "none"
    assert "torch" in noted


def test_what_is_data_needs_no_trust(tmp_path: Path) -> None:
    names = ("model.onnx", "model.onnx_data", "model.safetensors", "merges.txt", "a/tokenizer.json")
    folder = seal(tmp_path / "data", "onnx-int8", dict.fromkeys(names, b"x"))
    assert trust.verify_and_authorize(folder, trust=False) == store.read_manifest(folder)


def test_what_is_written_beside_the_sealed_files_is_not_code(tmp_path: Path) -> None:
    folder = seal(tmp_path / "data", "onnx-int8", {"model.onnx": b"x"})
    for name in store.SIDECAR_FILES - {MANIFEST}:
        (folder / name).write_bytes(b"x")
    assert trust.verify_and_authorize(folder, trust=False) == store.read_manifest(folder)


@pytest.mark.parametrize(
    "name", ["x.pt2", "x.so", "x.bin", "x.py", "x", "x.ONNX", "model.onnx.so", "a/x.pkl", "x.pt"]
)
def test_what_is_not_known_to_be_data_counts_as_code(tmp_path: Path, name: str) -> None:
    folder = seal(tmp_path / "code", "onnx-int8", {name: b"x"})
    with pytest.raises(TrustError):
        trust.verify_and_authorize(folder, trust=False)


def renamed(number: int) -> Manifest:
    return manifest("aoti").model_copy(update={"name": f"tiny-{number}"})


def test_the_journal_is_a_file_for_each_digest(registry: Path) -> None:
    assert not build_registry.built_here(renamed(1))
    build_registry.record(renamed(1))
    build_registry.record(renamed(1))
    assert [path.name for path in registry.iterdir()] == [renamed(1).digest]
    assert json.loads((registry / renamed(1).digest).read_text())["name"] == "tiny-1"
    assert build_registry.built_here(renamed(1))
    assert not build_registry.built_here(renamed(2))


def test_builds_at_the_same_time_all_note_theirs(registry: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: build_registry.record(renamed(number % 20)), range(160)))
    assert sorted(path.name for path in registry.iterdir()) == sorted(
        renamed(number).digest for number in range(20)
    )


def test_a_journal_that_others_can_write_is_not_believed(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_registry.record(renamed(1))
    registry.chmod(0o777)
    assert not build_registry.built_here(renamed(1))
    assert "is writable by others" in caplog.text


def test_a_note_must_be_made_with_this_machines_key(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file at the right place is not enough, nor is another digest's note, nor an edited one."""
    build_registry.record(renamed(1))
    note = registry / renamed(1).digest
    good = json.loads(note.read_text())
    old = {name: value for name, value in good.items() if name != "hmac"}
    forged: list[object] = [
        *(
            old,
            good | {"name": "x"},
            old | {"hmac": ""},
            old | {"hmac": 1},
            old | {"hmac": "\u00e9"},
        ),
        *([], 1, None, "x"),
    ]
    for told in forged:
        note.write_text(json.dumps(told))
        assert not build_registry.built_here(renamed(1)), told
    assert "Build the artifact again with --force, or load it with --trust" in caplog.text
    for data in (b"", b"{", b"[" * 100_000, bytes(100_000), b"\xff"):
        note.write_bytes(data)
        assert not build_registry.built_here(renamed(1)), data[:9]
    (registry / renamed(2).digest).write_text(json.dumps(good))
    assert not build_registry.built_here(renamed(2))
    note.write_text(json.dumps(good))
    assert build_registry.built_here(renamed(1))
    kept = note.rename(registry.parent / "kept")
    note.symlink_to(kept)
    assert not build_registry.built_here(renamed(1))
    note.unlink()
    os.mkfifo(note)
    assert not build_registry.built_here(renamed(1))


def _linked(key: Path) -> None:
    key.rename(key.with_name("elsewhere"))
    key.symlink_to("elsewhere")


def _dangling(key: Path) -> None:
    key.unlink()
    key.symlink_to(key.with_name("made"))


def _piped(key: Path) -> None:
    key.unlink()
    os.mkfifo(key)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key.chmod(0o644),
        lambda key: key.write_bytes(b"short"),
        lambda key: key.write_bytes(bytes(32)),
        lambda key: os.chown(key, 12345, -1),
        _linked,
        _dangling,
        _piped,
    ],
)
def test_the_key_is_private(registry: Path, spoil: Callable[[Path], None]) -> None:
    build_registry.record(renamed(1))
    key = registry.parent / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.stat().st_nlink == 1
    if os.geteuid() and spoil.__name__ == "<lambda>":
        pytest.skip("only root gives files away")
    os.link(key, registry.parent / f".key.partial-{'0' * 32}")  # its maker was killed
    build_registry.record(renamed(1))
    assert key.stat().st_nlink == 1
    spoil(key)
    assert not build_registry.built_here(renamed(1))
    build_registry.record(renamed(2))
    assert not (registry.parent / "made").exists()
    assert not list(registry.parent.glob(".key*"))


def test_folders_above_the_journal_are_private(
    tmp_path: Path, registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_registry.record(renamed(1))
    for mode, believed in ((0o777, False), (0o1777, True), (0o757, False), (0o755, True)):
        tmp_path.chmod(mode)
        assert build_registry.built_here(renamed(1)) == believed, oct(mode)
    (tmp_path / "mine").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    registry.parent.rename(tmp_path / "mine" / "state")
    (tmp_path / "open" / "state").symlink_to(tmp_path / "mine" / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTER_STATE", str(tmp_path / "open" / "state"))
        assert not build_registry.built_here(renamed(1))
        patch.setenv("EXPORTER_STATE", str(tmp_path / "mine" / "state"))
        assert build_registry.built_here(renamed(1))
    if not os.geteuid():
        os.chown(tmp_path, 12345, -1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EXPORTER_STATE", str(tmp_path / "mine" / "state"))
            assert not build_registry.built_here(renamed(1))


def test_a_journal_that_cannot_be_written_costs_a_warning(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.parent.write_text("in the way")
    build_registry.record(renamed(1))
    assert "--trust" in caplog.text
    assert not build_registry.built_here(renamed(1))


def test_the_journals_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_registry.build_registry() == tmp_path / "state" / "built"
    monkeypatch.delenv("EXPORTER_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert build_registry.build_registry() == tmp_path / "xdg" / "exporter" / "built"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build_registry.build_registry() == tmp_path / ".local" / "state" / "exporter" / "built"


def test_an_edited_manifest_is_another_artifact(foreign: Path) -> None:
    build_registry.record(store.read_manifest(foreign))
    told = store.read_manifest(foreign)
    edited: dict[str, Any] = {"name": "other"}
    (foreign / "manifest.json").write_bytes(told.model_copy(update=edited).canonical())
    with pytest.raises(ExporterError) as refused:
        load.load(foreign)
    assert isinstance(refused.value, TrustError)


@pytest.mark.slow
@pytest.mark.usefixtures("steps_here")
def test_one_word_in_the_recipe_allows_a_pickle_for_good(
    english_whisper: Path, tmp_path: Path
) -> None:
    """For the build, and for the original that `validate` compares with."""
    folder = Path(shutil.copytree(english_whisper, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    path = write_recipe(tmp_path, folder, "{}").path
    where: Any = {"output": tmp_path / "out", "targets": ["torch-int8"], "progress": silent}
    with pytest.raises(CheckpointError, match="allow_pickle"):
        build(recipe.read(path), **where)
    (built,) = build(recipe.read(path, ["allow_pickle=true"]), **where)
    (told,) = validate([built.path], threads=1)
    assert told.verdict == "passed", told.sentence
