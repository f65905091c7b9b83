"""What every rival's process does: open one model, transcribe the same windows, answer in JSON.

It runs in the rival's own environment, so this file needs the standard library and numpy alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Windows = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Request:
    """What to open and how to run it.

    `started` is the parent's monotonic clock at the start. A process that `waits` tells, when it is
    warm, that it is ready, and is timed when its input ends, together with others.
    """

    model: str
    checkpoint: str
    audio: str
    tokens: int
    threads: int
    beams: int
    warmups: int
    runs: int
    started: float
    options: dict[str, Any] = field(default_factory=dict)
    waits: bool = False

    def windows(self) -> Windows:
        """Return the audio: float32 mono at 16 kHz, one full window in each row."""
        return list(np.load(self.audio))


@dataclass(frozen=True)
class Opened:
    """A model that is ready: `transcribe` gives each window's text, `count` its decoded tokens."""

    transcribe: Callable[[], list[str]]
    count: Callable[[], list[int]]
    packages: tuple[str, ...]


def serve(open_model: Callable[[Request], Opened]) -> None:
    """Answer the request in the first argument with one line of JSON on standard output."""
    # Should memory run out all the same, the kernel takes this process before its parent.
    Path("/proc/self/oom_score_adj").write_text("1000")
    print(json.dumps(measure(open_model, Request(**json.loads(sys.argv[1])))), flush=True)
    # Some runtimes crash while they are taken down; what was measured is told already.
    os._exit(0)


def measure(open_model: Callable[[Request], Opened], request: Request) -> dict[str, Any]:
    """Open the model, warm it up, and time whole transcriptions: samples in, text out."""
    called = time.monotonic()
    opened = open_model(request)
    ready = time.monotonic()
    warmups = [timed(opened.transcribe) for _ in range(request.warmups)]
    if request.waits:
        print("ready", flush=True)
        sys.stdin.read()
    before, own, began = foreign_cpu_s(), time.process_time(), time.monotonic()
    runs = [timed(opened.transcribe) for _ in range(request.runs)]
    ended, own_s = time.monotonic(), time.process_time() - own
    capacity_s = (ended - began) * len(os.sched_getaffinity(0))
    foreign_s = foreign_cpu_s() - before
    return {
        "load_s": ready - called,
        "ready_s": ready - request.started,
        "warmup_s": [seconds for seconds, _ in warmups],
        "seconds": [seconds for seconds, _ in runs],
        "began_s": began,
        "ended_s": ended,
        "cpu_s": own_s,
        "foreign_share": round(max(0.0, foreign_s / capacity_s), 3),
        "tokens": opened.count(),
        "texts": runs[-1][1],
        "peak_rss_bytes": peak_rss_bytes(),
        "versions": versions_of(opened.packages),
    }


def timed(call: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Return the seconds of one call, and its texts."""
    started = time.perf_counter()
    texts = call()
    return time.perf_counter() - started, texts


def foreign_cpu_s() -> float:
    """Return the seconds of all cores that did not go to this process, nor to idling.

    That is other processes, and what a virtual machine's host took away.
    """
    with Path("/proc/stat").open(encoding="ascii") as lines:
        user, nice, system, _, _, hard, soft, stolen = map(int, lines.readline().split()[1:9])
    busy = user + nice + system + hard + soft + stolen
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def peak_rss_bytes() -> int:
    """Return this program's peak, without its parent's that `ru_maxrss` starts from."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
