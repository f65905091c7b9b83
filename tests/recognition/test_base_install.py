"""Our wheel in environments of their own: what the base install runs, and what it asks for."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

import exporter
from exporter.artifact import store
from tests.support import fresh
from tests.support.built import build_tiny
from tests.support.tiny import make_whisper
from tests.support.tiny_ctc import make_ctc, tones

pytestmark = pytest.mark.slow

TARGETS = "[{kind: onnx-int8}, {kind: aoti}, {kind: torch-int8}]"
SPOKEN = "decoding: {language: en, task: transcribe}\n"
FAMILIES = ("whisper", "wav2vec2")
KINDS = ("onnx-int8", "aoti")
EXTRAS = ("build", "validate", "hub", "sign")
SCRIPT = """
import json, sys
import exporter
recogniser = exporter.load(sys.argv[1], threads=1, trust=True)
print(json.dumps([exporter.__file__, recogniser.transcribe(sys.argv[2]).text]))
"""
REFUSED = """
import sys
from importlib import import_module
import exporter
from exporter.errors import MachineError
MODULES = ("build.pipeline", "bench.run", "tune.pipeline", "validate.pipeline")
recogniser = exporter.load(sys.argv[1], threads=1, trust=True)
for refused in (
    lambda: recogniser.model,
    lambda: exporter.load_original(sys.argv[2]),
    lambda: exporter.load(sys.argv[3]),
    lambda: exporter.load("organisation/name"),
    *(lambda name=name: import_module(f"exporter.{name}") for name in MODULES),
):
    try:
        refused()
    except MachineError as error:
        print(" ".join(str(error).split()))
"""


@dataclass(frozen=True)
class Installed:
    """An environment, and a folder to work in whose build registry is its own."""

    python: Path
    folder: Path

    def run(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        own = {"HOME": str(self.folder), "EXPORTER_STATE": str(self.folder / "state")}
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env={**kept, **own, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    def exporter(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "exporter", *arguments)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh.wheel(tmp_path_factory.mktemp("wheel"))


def installed(factory: pytest.TempPathFactory, ours: Path, *extras: str) -> Installed:
    place = factory.mktemp("installed")
    (place / "work").mkdir()
    return Installed(fresh.environment(place / "venv", ours, *extras), place / "work")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, ours: Path) -> Installed:
    return installed(tmp_path_factory, ours)


@pytest.fixture(scope="module")
def with_onnxruntime(tmp_path_factory: pytest.TempPathFactory, ours: Path) -> Installed:
    return installed(tmp_path_factory, ours, fresh.installed_onnxruntime())


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """An artifact of each family and kind."""
    found = {}
    for family in FAMILIES:
        place = tmp_path_factory.mktemp(family)
        checkpoint = place / "checkpoint"
        spoken = family == "whisper"
        make_whisper(checkpoint) if spoken else make_ctc(checkpoint, family)
        made = build_tiny(place, checkpoint, TARGETS, SPOKEN if spoken else "")
        found |= {(family, kind): folder for kind, folder in made.items()}
    return found


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tones.wav"
    soundfile.write(path, tones(1.4, 3), 16_000)
    return path


def test_nothing_else_can_be_imported(base: Installed, with_onnxruntime: Installed) -> None:
    names = ("onnxruntime", "pydantic", "torch", "transformers", "onnx", "huggingface_hub")
    script = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert base.run("-c", script, *names).stdout == "[]\n"
    assert with_onnxruntime.run("-c", script, *names).stdout == "['onnxruntime']\n"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_transcribes_and_verifies(
    base: Installed,
    with_onnxruntime: Installed,
    artifacts: dict[tuple[str, str], Path],
    clip: Path,
    family: str,
    kind: str,
) -> None:
    """Though it was built elsewhere: the build registry there does not know it."""
    there = base if kind == "aoti" else with_onnxruntime
    folder = artifacts[family, kind]
    expected = exporter.load(folder, threads=1).transcribe(clip).text
    module, text = json.loads(there.run("-c", SCRIPT, folder, clip).stdout)
    assert (Path(module).is_relative_to(there.python.parents[1]), text) == (True, expected)
    told = there.exporter("transcribe", folder, clip, "--threads", "1", "--trust")
    assert (told.stdout, told.stderr, told.returncode) == (f"{expected}\n", "", 0)
    assert there.exporter("verify", folder).stdout.endswith("verified\n" + digest_line(folder))


def digest_line(folder: Path) -> str:
    return f"  digest {store.read_sealed(folder).digest}\n"


def test_what_an_extra_lacks_is_told_in_python(
    base: Installed, artifacts: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    folders = (artifacts["whisper", "aoti"], tmp_path, artifacts["whisper", "onnx-int8"])
    told = base.run("-c", REFUSED, *folders)
    assert told.stderr == ""
    model, original, graphs, hub, *modules = told.stdout.splitlines()
    assert model.endswith(" is not installed: pip install 'asr-exporter[build]'")
    assert original.endswith(" is not installed: pip install 'asr-exporter[build]'")
    ask = "pip install 'asr-exporter[onnxruntime]' (or [onnxruntime-gpu], never both)"
    assert graphs == f"onnxruntime is not installed: {ask}"
    assert hub.endswith(" is not installed: pip install 'asr-exporter[hub]'")
    extras = [line.partition(" is not installed: pip install ")[2] for line in modules]
    build, validate = (f"'asr-exporter[{extra}]'" for extra in ("build", "validate"))
    assert extras == [build, build, validate, validate]


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("build", "recipe.yaml"), "build"),
        (("init", "organisation/name"), "build"),
        (("bench", "artifact"), "build"),
        (("doctor", "folder"), "build"),
        (("machine", "--measure"), "build"),
        (("validate", "artifact"), "validate"),
        (("tune", "recipe.yaml"), "validate"),
        (("push", "artifact"), "hub"),
        (("pull", "organisation/name"), "hub"),
        (("inspect", "ARTIFACT"), "hub"),
        (("inspect", "CHECKPOINT"), "build"),
        (("transcribe", "organisation/name", "clip.wav"), "hub"),
        (("sign", "artifact", "--key", "key.pem"), "sign"),
        (("verify", "ARTIFACT", "--signature"), "sign"),
        (("transcribe", "TORCH", "CLIP"), "build"),
        (("transcribe", "ONNX", "CLIP"), "onnxruntime"),
    ],
)
def test_a_command_tells_the_extra_that_it_lacks(
    base: Installed,
    artifacts: dict[tuple[str, str], Path],
    clip: Path,
    command: Sequence[str],
    extra: str,
) -> None:
    named = {
        "ARTIFACT": artifacts["whisper", "aoti"],
        "TORCH": artifacts["whisper", "torch-int8"],
        "ONNX": artifacts["whisper", "onnx-int8"],
        "CHECKPOINT": artifacts["whisper", "aoti"].parents[2] / "checkpoint",
        "CLIP": clip,
    }
    told = base.exporter(*(named.get(each, each) for each in command))
    assert (told.stdout, told.returncode) == ("", 6)
    (line,) = told.stderr.splitlines()
    assert line.startswith("error: ")
    assert f" is not installed: pip install 'asr-exporter[{extra}]'" in line


def test_help_lists_and_completion_need_no_extra(
    base: Installed, artifacts: dict[tuple[str, str], Path]
) -> None:
    for arguments in (("--help",), ("--version",), ("machine",), ("build", "--help")):
        told = base.exporter(*arguments)
        assert (told.stderr, told.returncode) == ("", 0)
        assert told.stdout
    there = base.folder / "artifacts" / "whisper"
    there.parent.mkdir()
    there.symlink_to(artifacts["whisper", "aoti"].parent)
    (base.folder / "recipes").mkdir()
    (base.folder / "recipes" / "mine.yaml").write_text("name: mine\n")
    listed = base.exporter("list").stdout
    assert "artifacts/whisper/aoti: " in listed
    assert "not validated" in listed
    assert "mine.yaml: not read: pydantic is not installed: pip" in listed
    asked = {"_EXPORTER_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    script = "from exporter.__main__ import main; main()"
    for line, offered in {
        "exporter transcribe artifacts/": "aoti",
        "exporter build ": "mine",
    }.items():
        told = base.run("-c", script, **asked, COMP_WORDS=line)
        assert offered in told.stdout
