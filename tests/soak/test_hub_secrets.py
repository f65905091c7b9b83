"""A token in the environment or in its file, commands that succeed and that fail: it is nowhere."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import soundfile

from tests.support import faulty, passing
from tests.support.hub import Fault, Hub, Request, of_folder
from tests.support.secrets import Person

COMMANDS = {
    "push": ["push", "artifacts/onnx-int8"],
    "request": ["push", "artifacts/onnx-int8", "--create-pr", "--json"],
    "pull": ["pull", "org/there", "--force"],
}
MODELS = importlib.util.find_spec("torch") is not None  # not beside the newest huggingface_hub
if MODELS:
    COMMANDS["transcribe"] = ["transcribe", "org/there", "speech.flac"]
BUILDING = {
    "inspect": ["inspect", "org/model"],
    "build": ["build", "recipe.yaml"],
    "validate": ["validate", "artifacts/onnx-int8", "--reference", "org/model", "--data", "clips"],
}
RECIPE = "name: tiny\ncheckpoint: org/model\ntargets: [{kind: torch-int8}]\n"
# Of every request, and of those to the storage alone, whose addresses are signed.
FAULTS: tuple[Fault, ...] = (None, 401, 403, 404, 429, 500, "malformed", "cut", "elsewhere")
STORAGE: tuple[Fault, ...] = (500, "before", "cut", "silence")


def anywhere(_asked: Request) -> bool:
    return True


def storage(asked: Request) -> bool:
    return asked.path.startswith("/storage/")


SCENARIOS = [(anywhere, fault) for fault in FAULTS] + [(storage, fault) for fault in STORAGE]


@pytest.fixture
def home(tmp_path: Path, loopback: Hub) -> Path:
    """A working folder with an artifact to push, and a Hub with one to pull."""
    home = tmp_path / "home"
    passing.make(home / "artifacts" / "onnx-int8")
    there = of_folder(passing.make(tmp_path / "there", seed=5))
    loopback.api.create("org/there", private=True, files=there)
    (home / "recipe.yaml").write_text(RECIPE)
    (home / "speech.flac").write_bytes(b"no sound")
    (home / "clips").mkdir()
    (home / "clips" / "manifest.jsonl").write_text('{"audio": "a.wav", "text": "red"}\n')
    soundfile.write(home / "clips" / "a.wav", numpy.zeros(16_000), 16_000)
    return home


def watched(hub: Hub, home: Path, command: list[str], in_file: bool) -> tuple[int, int]:
    """Run a command in all scenarios: how many they were, and how many processes were started."""
    started, codes, large = 0, set(), dict(hub.large)
    for where, fault in SCENARIOS:
        shutil.rmtree(home / "hf", ignore_errors=True)
        shutil.rmtree(home / "kept", ignore_errors=True)
        hub.repos.pop("org/speech", None)
        hub.large = dict(large)  # else nothing is sent the second time
        with hub.failing(fault, where):
            person = Person(hub, home, in_file)
            ran = person.runs(*command)
        assert person.leaks(ran) == [], (command, where, fault)
        assert hub.requests, (command, where, fault)
        hub.requests.clear()
        started += len(ran.environments)
        codes.add(ran.code)
    assert codes & {5, 7}, "nothing failed"
    assert 1 not in codes, "a bug"
    return len(SCENARIOS), started


@pytest.mark.parametrize("in_file", [False, True], ids=["environment", "file"])
@pytest.mark.parametrize("what", COMMANDS)
def test_the_token_is_nowhere(
    loopback: Hub,
    home: Path,
    what: str,
    in_file: bool,
    record_property: Callable[[str, object], None],
) -> None:
    count, started = watched(loopback, home, COMMANDS[what], in_file)
    found = f"0 hits in output, files, requests, {started} children"
    faulty.prove(record_property, "P12", count, found)


if MODELS:

    @pytest.mark.parametrize("what", BUILDING)
    def test_the_token_is_nowhere_in_what_builds(
        loopback: Hub,
        home: Path,
        tiny_whisper: Path,
        what: str,
        record_property: Callable[[str, object], None],
    ) -> None:
        loopback.api.create("org/model", private=True, files=of_folder(tiny_whisper))
        count, started = watched(loopback, home, BUILDING[what], in_file=False)
        found = f"0 hits in output, files, requests, {started} children"
        faulty.prove(record_property, "P12", count, found)
