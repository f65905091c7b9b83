"""Builds that are killed, refused a system call, or interrupted, and what must hold afterwards."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.artifact import lookup, store
from exporter.artifact.manifest import Manifest
from tests.support.traced import tracing

RECIPE = """\
name: tiny
checkpoint: checkpoint
targets: [{kind: torch-int8}, {kind: onnx-int8}, {kind: aoti}]
decoding: {language: en}
data: {clips: clips}
gate: {min_clips: 1, max_latency_ratio: 100, max_wer_increase: 1, max_reference_wer: 1000}
"""
# The same target from the same checkpoint, and yet another artifact.
_PER_TENSOR = "{scheme: dynamic-int8, per_channel: false}"
OTHER = {
    "torch-int8": ("--set", f"targets.0.quantization.default={_PER_TENSOR}"),
    "onnx-int8": ("--set", f"targets.1.quantization.default={_PER_TENSOR}"),
    "aoti": ("--set", "targets.2.dtype=float32"),
}
_HALF = re.compile(r"\.partial-|^\.aoti-|^\.choosing-")
_ROOT = Path(__file__).resolve().parents[2]


def _stranger(path: Path) -> bool:
    """A file by which Python tries whether it can write in a folder, or one of onnxruntime's."""
    return path.name == ".ses" or path.read_bytes() == b"blat"


@dataclass(frozen=True)
class Ran:
    """How a run of the command line ended, what it said, and its file-system events."""

    code: int
    said: str
    events: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A user's folder with recipe, checkpoint, clips, cache and build registry."""

    base: Path
    target: str = "torch-int8"

    def of(self, kind: str) -> "Place":
        """The same folder, for another target."""
        return Place(self.base, kind)

    @property
    def final(self) -> Path:
        return self.base / "artifacts" / "tiny" / self.target

    @property
    def environment(self) -> dict[str, str]:
        return {
            "EXPORTER_CACHE": str(self.base / "cache"),
            "EXPORTER_STATE": str(self.base / "state"),
            "TMPDIR": str(self.base / "tmp"),
        }

    def surroundings(self) -> dict[str, str]:
        """The environment of a process that is started here."""
        return {**os.environ, "PYTHONPATH": str(_ROOT), **self.environment}

    @property
    def building(self) -> list[str]:
        return ["build", "tiny.yaml", "--target", self.target]

    def said(self, copy: int) -> str:
        """What a run has printed."""
        return (self.base / f"said{copy}").read_text(errors="replace")

    def listed(self, output: str = "artifacts") -> list[Manifest]:
        """Every artifact that is to be found, each of them verified."""
        folder = self.base / output / "tiny"
        return [store.verify(path) for path in lookup.inside(folder)] if folder.exists() else []

    def left(self) -> list[str]:
        """What a run that has ended must not leave anywhere."""
        found = [path for path in self.base.rglob("*") if _HALF.search(path.name)]
        found += [p for p in self.base.glob("tmp/*") if p.is_dir() or not _stranger(p)]
        return sorted(str(path.relative_to(self.base)) for path in found)

    def running(self) -> list[str]:
        """Processes that work here still."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
                alive = (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                continue
            if alive and str(self.base).encode() in told:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        return found

    def registry(self) -> list[str]:
        """The digests in the build registry, each entry whole."""
        folder = self.base / "state" / "built"
        notes = {path.name: json.loads(path.read_bytes()) for path in folder.glob("*")}
        assert all(note.keys() == {"name", "kind", "built", "hmac"} for note in notes.values())
        return list(notes)

    def keep(self) -> None:
        """Remember everything that runs may change, for `restore`."""
        for name in ("artifacts", "cache", "state"):
            shutil.rmtree(self.base / "kept" / name, ignore_errors=True)
            if (self.base / name).exists():
                shutil.copytree(self.base / name, self.base / "kept" / name)

    def forget(self) -> None:
        """Have neither artifacts nor a build registry."""
        for name in ("artifacts", "state"):
            shutil.rmtree(self.base / name, ignore_errors=True)

    def restore(self) -> None:
        """Have it as it was."""
        for name in ("artifacts", "cache", "state", "tmp"):
            shutil.rmtree(self.base / name, ignore_errors=True)
            if (self.base / "kept" / name).exists():
                shutil.copytree(self.base / "kept" / name, self.base / name)
        (self.base / "tmp").mkdir()


def place(base: Path, target: str = "torch-int8") -> Place:
    """A place with a checkpoint of toy size, and two seconds of noise to hear."""
    import numpy as np
    import soundfile

    from tests.support.tiny import make_whisper

    shape = {"encoder_layers": 1, "decoder_layers": 1, "words": 3, "max_tokens": 32}
    make_whisper(base / "checkpoint", **shape)
    (base / "clips").mkdir()
    soundfile.write(base / "clips" / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    (base / "clips" / "manifest.jsonl").write_text('{"audio": "a.wav", "text": "two one"}\n')
    (base / "tiny.yaml").write_text(RECIPE)
    made = Place(base, target)
    made.restore()
    return made


def made_of(manifest: Manifest) -> dict[str, Any]:
    """What two builds of the same have in common: all but the time and memory that they took."""
    return manifest.model_dump(mode="json", exclude={"build"})


@dataclass
class Server:
    """The process of `tests.support.forks`, from here."""

    process: subprocess.Popen[str]

    def run(
        self,
        where: Place,
        arguments: Sequence[str],
        *,
        at: int | None = None,
        action: str = "kill all",
        strace: Sequence[str] = (),
    ) -> Ran:
        """Run a command line, act at the event `at`, or trace its system calls."""
        gate = where.base / "gate"
        gate.unlink(missing_ok=True)
        if strace:
            os.mkfifo(gate)
        asked = {"at": at, "action": action, "gate": str(gate) if strace else None}
        (pid,) = self._ask(where, arguments, asked)
        if strace:
            with tracing(pid, strace, where.base / "trace"):
                gate.write_bytes(b"")
                (code,) = self._answer()
        else:
            (code,) = self._answer()
        events = [] if strace else (where.base / "events").read_text().splitlines()
        return Ran(code, where.said(0), tuple(events))

    def together(self, where: Place, arguments: Sequence[str], copies: int) -> list[Ran]:
        """Run a command line several times at once; `COPY` in it is the number of each."""
        self._ask(where, arguments, {"at": None, "action": "", "gate": None}, copies)
        codes = self._answer()
        return [Ran(code, where.said(copy), ()) for copy, code in enumerate(codes)]

    def _ask(
        self, where: Place, arguments: Sequence[str], how: Mapping[str, Any], copies: int = 1
    ) -> list[int]:
        request = {"place": str(where.base), "arguments": arguments, "copies": copies, **how}
        assert self.process.stdin is not None
        told = json.dumps({**request, "environment": where.environment})
        print(told, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> list[int]:
        assert self.process.stdout is not None
        return list(json.loads(self.process.stdout.readline()))


@contextmanager
def serving() -> Iterator[Server]:
    """A server of forks, for as long as the block lasts."""
    command, pipe = [sys.executable, "-m", "tests.support.forks"], subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=_ROOT
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == "ready"
        try:
            yield Server(process)
        finally:
            process.kill()


def start(
    where: Place,
    arguments: Sequence[str],
    *,
    stderr: int = subprocess.PIPE,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    """The command line in a process of its own, with all its children, as users start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "exporter", *arguments],
        cwd=where.base,
        env=where.surroundings(),
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
        preexec_fn=before,
    )


def after_a_kill(where: Place, before: Manifest | None, wanted: Manifest) -> None:
    """What must hold between a kill and the rerun: nothing half-built is found."""
    listed = where.listed()
    if before is None:
        assert [made_of(each) for each in listed] in ([], [made_of(wanted)])
    else:
        (found,) = listed
        assert found == before or made_of(found) == made_of(wanted)


def after_a_rerun(where: Place, ran: Ran, wanted: Manifest) -> None:
    """What must hold in the end: the same artifact as ever, and nothing else."""
    assert ran.code == 0, ran.said
    (found,) = where.listed()
    assert made_of(found) == made_of(wanted)
    assert found.digest in where.registry()
    assert where.left() == []


def one_error(ran: Ran) -> str:
    """The error that a run ended with: one to three lines, and nothing of Python's.

    Behind it there may be the document of `--json`.
    """
    lines = ran.said.partition("\n{\n")[0].strip().splitlines()
    assert "Traceback" not in ran.said, ran.said
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, ran.said
    assert len(lines) - lines.index(errors[0]) <= 3, ran.said
    return errors[0]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether something comes true within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
