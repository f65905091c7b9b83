"""Commands run as processes with a token, and a look at all places where it may have gone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.hub import SIGNATURE, Hub

# As `exporter`, but for the pauses between tries.
PROGRAM = """
import sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
from exporter.cli import main
sys.exit(main(sys.argv[1:]))
"""
# The standard library asks the system's own program what processor this is; nothing of ours.
STANDARD = b"uname\0-p\0"
LOUD = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}


@dataclass
class Watched:
    """A process that ended: what it printed, and the environments of those it had started."""

    code: int
    printed: bytes
    environments: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """Somebody with a home, and a token in the environment or in a file there."""

    hub: Hub
    home: Path
    in_file: bool

    @property
    def environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        places = {"HOME": str(self.home), "HF_HOME": str(self.home / "hf"), "NO_PROXY": "*"}
        places |= {"EXPORTER_CACHE": str(self.home / "kept"), "HF_ENDPOINT": self.hub.endpoint}
        limits = {"EXPORTER_HUB_TIMEOUT": "0.5", "HF_HUB_DISABLE_XET": "1"}
        limits |= {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        token = {} if self.in_file else {"HF_TOKEN": self.hub.token}
        return {**kept, **places, **limits, **LOUD, **token}

    def runs(self, *command: str) -> Watched:
        """Run the command line as loud as it gets, and watch."""
        if self.in_file:
            self._token_file.parent.mkdir(parents=True, exist_ok=True)
            self._token_file.write_text(self.hub.token)
        line = [sys.executable, "-c", PROGRAM, "--debug", *command]
        log = self.home / "printed"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                line, cwd=self.home, env=dict(self.environment), stdout=stream, stderr=stream
            )
            seen: dict[int, bytes] = {}
            while process.poll() is None:
                seen |= {pid: told for pid in below(process.pid) if (told := _told(pid, line))}
                time.sleep(0.01)
        return Watched(process.returncode, log.read_bytes(), seen)

    @property
    def _token_file(self) -> Path:
        return self.home / "hf" / "token"

    def leaks(self, ran: Watched) -> list[str]:
        """Where the token, or what an address was signed with, is and should not be."""
        token, signature = self.hub.token.encode(), SIGNATURE.encode()
        found = [f"printed: {line!r}" for line in ran.printed.splitlines() if token in line]
        found += [f"printed: {line!r}" for line in ran.printed.splitlines() if signature in line]
        found += [f"{text[:80]!r}" for text in ran.environments.values() if token in text]
        for path in self.home.rglob("*"):
            if path.is_file() and path != self._token_file:
                data = path.read_bytes()
                found += [str(path)] * (token in data or signature in data)
        return found + self._sent()

    def _sent(self) -> list[str]:
        """Requests that told the token to others than the Hub, or in an address; what is stored."""
        found = []
        for one in self.hub.requests:
            foreign = one.host != "127.0.0.1" and one.token
            if foreign or self.hub.token in f"{one.path} {one.query}":
                found.append(f"{one.method} {one.host} {one.path}")
        for repo in self.hub.repos.values():
            files = [file for commit in repo.commits.values() for file in commit.files.values()]
            found += ["a file on the Hub"] * any(self.hub.token.encode() in f.data for f in files)
        return found


def below(pid: int) -> Iterator[int]:
    """The processes that one has started, and those that they have."""
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, path.read_text().split()):
                yield child
                yield from below(child)


def _told(pid: int, parent: list[str]) -> bytes:
    """A process's command and environment; nothing yet while it is its parent's copy."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has just ended
        return b""
    copied = command.split(b"\0")[:-1] == list(map(os.fsencode, parent))
    return b"" if copied or command == STANDARD else command + environment
