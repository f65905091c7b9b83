"""Environments, conversions and measured rounds of benchmarks/peers/run.py.

Every rival is opened anew in each round, in a process of its own, so that no two models are ever in
memory together and a slow phase of the machine meets all of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import numpy as np
from ruamel.yaml import YAML

from benchmarks.build_cost.peak_memory import Watched, watch
from benchmarks.peers.systems import (
    CONVERSIONS,
    ENVIRONMENTS,
    OWN,
    RUNTIMES,
    TORCH,
    UNWANTED,
    Conversion,
    Rival,
)
from benchmarks.peers.workers.worker import Request
from exporter.formats import audio

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
WINDOW_S = 30
DISTURBED = 0.05  # of all cores' time, taken by others while a rival was timed
ATTEMPTS = 3


class Failed(Exception):
    """A rival that could not do it; the message is its row."""


@dataclass(frozen=True)
class Setting:
    """What is the same for every rival of a run."""

    tokens: int
    threads: int
    batch: int
    beams: int


@dataclass(frozen=True)
class Bench:
    """Where it is measured and how often, and what may not be passed."""

    work: Path
    setting: Setting
    runs: int
    memory_limit: int
    time_limit_s: float
    lock: Path | None
    window_s: int = WINDOW_S

    def python(self, environment: str) -> Path:
        """The interpreter of an environment."""
        if environment == OWN:
            return Path(sys.executable)
        return self.work / "environments" / environment / "bin" / "python"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock, where there is one, which others who use this machine wait for."""
        if self.lock is None:
            yield
            return
        with self.lock.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def watch(self, command: list[str], scratch: Path) -> Watched:
        """Run a conversion within the limits; what it keeps for another time stays in `scratch`."""
        with self.alone():
            return watch(
                command,
                memory_limit=self.memory_limit,
                time_limit_s=self.time_limit_s,
                environment={
                    **fixed(self.setting.threads),
                    "TMPDIR": str(scratch),
                    "EXPORTER_CACHE": str(scratch / "cache"),
                },
            )


def fixed(threads: int) -> dict[str, str]:
    """What every process is told: the same threads for all, and no network."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **dict.fromkeys(names, str(threads)),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "",  # what is installed is compiled already
    }


def prepare(bench: Bench, name: str) -> None:
    """Make one rival's environment, unless it is there with these very packages."""
    if name == OWN:
        return
    folder = bench.work / "environments" / name
    packages = [each.format(root=ROOT) for each in ENVIRONMENTS[name]]
    wanted = " ".join(packages if name in RUNTIMES else (TORCH, *packages))
    stamp = folder / "ready"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    click.echo(f"environment {name}: {wanted}", err=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(bench.python(name)), "-m", "pip", "--quiet"]
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        *([] if name in RUNTIMES else [[*pip, "install", TORCH]]),
        [*pip, "install", *wanted.split()],
        *([*pip, "uninstall", "--yes", package] for package in UNWANTED.get(name, ())),
    ]
    for command in commands:
        with bench.alone():
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            msg = f"its environment: {last_words(done.stderr)}"
            raise Failed(msg)
    stamp.write_text(wanted)


def write_audio(bench: Bench) -> Path:
    """Write the windows, all different and full of speech: the demo's clips, one after another."""
    path = bench.work / f"audio-{bench.setting.batch}x{bench.window_s}.npy"
    clips = sorted((ROOT / "recipes" / "demo" / "clips").glob("*.flac"))
    samples = bench.setting.batch * bench.window_s * RATE
    sound = np.concatenate([audio.whole(audio.read(clip, RATE)) for clip in clips])
    np.save(path, np.resize(sound, samples).reshape(bench.setting.batch, -1))
    return path


def convert(bench: Bench, checkpoint: Path, rival: Rival, *, again: bool) -> dict[str, Any]:
    """Tell where a rival's model is, its size, and what making it cost; make it if need be.

    Raises Failed where it cannot be made. A kill for want of memory is kept as a figure is.
    """
    if rival.conversion is None:
        return {"model": str(checkpoint), "size_bytes": size_bytes(checkpoint)}
    conversion = CONVERSIONS[rival.conversion]
    folder = bench.work / checkpoint.name / rival.conversion
    record = folder.with_name(f"{folder.name}.json")
    if again or not record.exists():
        told = _convert(bench, checkpoint, conversion, folder)
        record.write_text(json.dumps(told))
    else:
        told = json.loads(record.read_text())
    if told.get("killed_for"):
        what = "want of memory" if told["killed_for"] == "memory" else "want of time"
        gigabytes = told["peak_bytes"] / 1e9
        msg = f"conversion killed for {what}: {gigabytes:.1f} GB, {told['seconds']:.0f} s"
        raise Failed(msg)
    return {**told, "model": str(folder / conversion.model)}


def _convert(
    bench: Bench, checkpoint: Path, conversion: Conversion, folder: Path
) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    scratch = folder.with_name(f"{folder.name}-scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    python = bench.python(conversion.environment)
    places = {
        "python": python,
        "bin": python.parent,
        "checkpoint": checkpoint,
        "output": folder,
        "recipe": write_recipe(scratch / "recipe.yaml", checkpoint),
    }
    command = [word.format(**places) for word in conversion.command.split()]
    done = bench.watch(command, scratch)
    shutil.rmtree(scratch)
    told = {"seconds": round(done.seconds, 2), "peak_bytes": done.peak_bytes}
    if done.killed_for:
        shutil.rmtree(folder, ignore_errors=True)
        return {**told, "killed_for": done.killed_for}
    if done.returncode:
        msg = f"conversion: {last_words(done.stderr)}"
        raise Failed(msg)
    for name in conversion.copied:
        shutil.copyfile(checkpoint / name, folder / name)
    return {**told, "size_bytes": size_bytes(folder / conversion.model)}


def write_recipe(path: Path, checkpoint: Path) -> Path:
    """Write what `exporter build` is told: all of a target's options are its defaults."""
    wanted: dict[str, Any] = {
        "name": "peer",
        "checkpoint": str(checkpoint),
        "targets": [{"kind": kind} for kind in ("aoti", "onnx-int8", "torch-int8")],
    }
    if json.loads((checkpoint / "config.json").read_bytes())["model_type"] == "whisper":
        wanted["decoding"] = {"language": "en", "task": "transcribe"}
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(wanted, stream)
    return path


def size_bytes(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(bench: Bench, checkpoint: Path, rival: Rival, model: str, sound: Path) -> dict[str, Any]:
    """One fresh process of one rival; measured again where others took the machine meanwhile."""
    setting = bench.setting
    answer: dict[str, Any] = {}
    for _ in range(ATTEMPTS):
        with bench.alone():
            answer = ask(bench, rival, request_for(bench, checkpoint, rival, model, sound))
        if answer["foreign_share"] <= DISTURBED:
            break
    require_tokens(answer, setting)
    return answer


def request_for(
    bench: Bench, checkpoint: Path, rival: Rival, model: str, sound: Path, *, waits: bool = False
) -> Request:
    """What one process is asked, which is about to start."""
    setting = bench.setting
    return Request(
        model=model,
        checkpoint=str(checkpoint),
        audio=str(sound),
        tokens=setting.tokens,
        threads=setting.threads,
        beams=setting.beams,
        warmups=rival.warmups,
        runs=bench.runs,
        started=time.monotonic(),
        options=rival.options,
        waits=waits,
    )


def require_tokens(answer: Mapping[str, Any], setting: Setting) -> None:
    """Raise Failed unless as many tokens were decoded as were asked for."""
    wrong = [count for count in answer["tokens"] if count != setting.tokens]
    if wrong or len(answer["tokens"]) != setting.batch:
        msg = f"decoded {answer['tokens']} tokens, not {setting.tokens} in each window"
        raise Failed(msg)


def ask(bench: Bench, rival: Rival, request: Request) -> dict[str, Any]:
    """Start a worker and return its answer; raise Failed where it gives none."""
    return answered(bench, command_of(bench, rival, request), rival.variables)


def command_of(bench: Bench, rival: Rival, request: Request) -> list[str]:
    """The words that start a worker."""
    python, module = bench.python(rival.environment), f"benchmarks.peers.workers.{rival.worker}"
    return [str(python), "-m", module, json.dumps(asdict(request))]


def answered(
    bench: Bench, command: list[str], variables: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Run a command whose last line of output is its answer in JSON; raise Failed without one."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env=environment_of(bench, variables),
            timeout=bench.time_limit_s,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"no answer in {bench.time_limit_s:.0f} s"
        raise Failed(msg) from error
    if done.returncode:
        raise Failed(reason(done.returncode, done.stderr))
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def environment_of(bench: Bench, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is measured."""
    inductor = {"TORCHINDUCTOR_CACHE_DIR": str(bench.work / "inductor")}
    return {**os.environ, **fixed(bench.setting.threads), **inductor, **variables}


def reason(returncode: int, stderr: str) -> str | None:
    """Tell why a process failed."""
    if returncode == -signal.SIGKILL:
        return "killed for want of memory"
    return signal.strsignal(-returncode) if returncode < 0 else last_words(stderr)


def last_words(stderr: str) -> str:
    """The error that a command ended with; else the last line that says something."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|error)\b", line)]
    return (errors or lines or ["it ended without a word"])[-1][:160]
