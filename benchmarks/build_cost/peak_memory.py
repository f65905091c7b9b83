"""Run a command and watch what its whole process tree costs: wall time, and memory at its peak.

Twenty times a second /proc is read for the command and all its descendants, also those in other
process groups and those whose parent has ended. The memory of a moment is every process's anonymous
and shared memory, plus the file mappings of the process that has most of them: the processes of one
tree map the same libraries, which lie in memory once. What lives for less than a twentieth of a
second is not seen.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PERIOD_S = 0.05
_FIELDS = ("RssAnon", "RssShmem", "RssFile")


@dataclass(frozen=True)
class Watched:
    """How a command went. `killed_for` is "memory" or "time" where it was ended for passing one."""

    returncode: int
    seconds: float
    peak_bytes: int
    killed_for: str | None
    stdout: str
    stderr: str


class _Tree:
    """A process and its descendants, known by id and starting time, since ids come again."""

    def __init__(self, root: int) -> None:
        self._members = {pid: born for pid, _, born in _processes() if pid == root}

    def alive(self) -> list[int]:
        """The members that run now, children of members included."""
        running = {pid: (parent, born) for pid, parent, born in _processes()}
        self._members = {
            pid: born for pid, born in self._members.items() if running.get(pid, (0, ""))[1] == born
        }
        found = self._members
        while found:
            found = {
                pid: born
                for pid, (parent, born) in running.items()
                if parent in found and pid not in self._members
            }
            self._members |= found
        return list(self._members)

    def memory_bytes(self) -> int:
        """What the tree holds at this moment."""
        parts = [_memory(pid) for pid in self.alive()]
        return sum(own for own, _ in parts) + max((mapped for _, mapped in parts), default=0)

    def kill(self) -> None:
        """End every member, and those born meanwhile."""
        while pids := self.alive():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_PERIOD_S)


def watch(
    command: Sequence[str],
    *,
    memory_limit: int,
    time_limit_s: float,
    environment: Mapping[str, str] | None = None,
) -> Watched:
    """Run a command to its end, or to the moment when it passes a limit.

    `environment` is added to this process's own. The command's output is kept for the answer.
    Should the machine run out of memory all the same, the kernel takes this command before others.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        started = time.monotonic()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
        ) as process:
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
            peak, killed_for = _follow(process, memory_limit, started + time_limit_s)
        seconds = time.monotonic() - started
        texts = [_text(stream) for stream in (stdout, stderr)]
        return Watched(process.returncode, seconds, peak, killed_for, *texts)


def _follow(
    process: subprocess.Popen[bytes], memory_limit: int, deadline: float
) -> tuple[int, str | None]:
    """Sample until the process ends; tell the peak, and the limit it was ended for."""
    tree, peak = _Tree(process.pid), 0
    try:
        while process.poll() is None:
            memory = tree.memory_bytes()
            peak = max(peak, memory)
            if memory > memory_limit:
                return peak, "memory"
            if time.monotonic() > deadline:
                return peak, "time"
            time.sleep(_PERIOD_S)
        return peak, None
    finally:
        tree.kill()


def _processes() -> Iterator[tuple[int, int, str]]:
    """Id, parent and starting time of every process that has not ended."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name, in parentheses, may itself hold spaces and parentheses.
            told = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
            if told[0] != "Z":
                yield int(entry.name), int(told[1]), told[19]


def _memory(pid: int) -> tuple[int, int]:
    """Bytes of a process that no file backs, and bytes of mapped files; 0 if it has ended."""
    kilobytes = dict.fromkeys(_FIELDS, 0)
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in kilobytes:
                kilobytes[name] = int(value.split()[0])
    own = kilobytes["RssAnon"] + kilobytes["RssShmem"]
    return own * 1024, kilobytes["RssFile"] * 1024


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")
