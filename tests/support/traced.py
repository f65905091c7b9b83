"""System calls by `strace`: refused or deadly at a chosen one, or written down and judged."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MISSING = "strace is not here: apt install strace"
_WRITES = ("write", "writev", "pwrite64", "ftruncate", "sendfile", "copy_file_range", "fallocate")
_NAMES = ("openat", "mkdir", "unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2")
CALLS = ",".join((*_WRITES, *_NAMES, "fsync", "fdatasync", "mmap"))
_CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (\S+)")
_OPEN = re.compile(r"<(/[^>]*)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def present() -> bool:
    """Whether this machine can do any of it."""
    return shutil.which("strace") is not None


@contextmanager
def tracing(pid: int, options: Sequence[str], log: Path) -> Iterator[None]:
    """Trace a process and all that it starts; it is let go at the end."""
    command = ["strace", "-f", "-y", "-s", "400", "-o", str(log), *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        told = strace.stderr.readline()
        assert "attached" in told, told
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate()


@dataclass
class Order:
    """Whether what was written was on the disk before it got its name, and the name thereafter.

    `violations` tells where not. Judged are names below `base`; what is under way twice, in two
    threads, `strace` tells in two lines, which are joined here.
    """

    base: Path
    unsynced: set[Path] = field(default_factory=set)
    promised: set[Path] = field(default_factory=set)
    renames: int = 0
    syncs: int = 0
    violations: list[str] = field(default_factory=list)

    def read(self, log: Path) -> "Order":
        """Go through a log to its end."""
        begun: dict[str, str] = {}
        for line in log.read_text(errors="replace").splitlines():
            thread = line.split(" ", 1)[0]
            if line.endswith("<unfinished ...>"):
                begun[thread] = line.removesuffix("<unfinished ...>").rstrip()
                continue
            if "resumed>" in line:
                line = begun.pop(thread, "") + line.partition("resumed>")[2]
            if (call := _CALL.match(line)) and not call[3].startswith("-"):
                self._hear(call[1], call[2], call[3] + line[call.end() :])
        left = {path for path in self.unsynced | self.promised if path.exists()}
        self.violations += [f"{path} was never synced" for path in left]
        return self

    def _hear(self, call: str, arguments: str, result: str) -> None:
        paths = [Path(path) for path in _OPEN.findall(arguments)]
        if call in ("fsync", "fdatasync"):
            self.syncs += 1
            self.unsynced.discard(paths[0])
            self.promised.discard(paths[0])
        elif call in _WRITES or (call == "mmap" and "PROT_WRITE, MAP_SHARED" in arguments):
            self._dirty(*paths[:1])
        elif call == "openat" and "O_CREAT" in arguments:
            self._named(*(Path(path) for path in _OPEN.findall(result)))
        elif call == "mkdir":
            self._named(self._absolute(arguments)[0])
        elif call.startswith("rename"):
            self._renamed(*self._absolute(arguments), exchanged="EXCHANGE" in arguments)

    def _absolute(self, arguments: str) -> list[Path]:
        return [self.base / path for path in _QUOTED.findall(arguments)]

    def _dirty(self, *paths: Path) -> None:
        self.unsynced |= {path for path in paths if self._counts(path)}

    def _named(self, *paths: Path) -> None:
        """A name that is new: the folder that has it is to be synced before it counts itself."""
        self.promised |= {path.parent for path in paths if self._counts(path)}

    def _counts(self, path: Path) -> bool:
        ours = path.is_relative_to(self.base) and path.parent != self.base
        return ours and not path.is_relative_to(self.base / "tmp") and path.suffix != ".lock"

    def _renamed(self, old: Path, new: Path, *, exchanged: bool) -> None:
        self.renames += 1
        open_ = {path for path in self.unsynced | self.promised if path.is_relative_to(old)}
        if self._counts(new):
            self.violations += [f"{path} was not synced before {new} was" for path in open_]
            self.promised.add(new.parent)
        if not exchanged:
            self.unsynced -= open_
            self.promised -= open_
