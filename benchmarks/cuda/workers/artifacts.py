"""One artifact of ours, opened in a fresh process and timed.

    python -m benchmarks.cuda.workers.artifacts ARTIFACT DEVICE TOKENS

Nothing that times is imported before the first text, so that its seconds are the artifact's own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import exporter

RATE, WINDOW_S = 16000, 30
BATCHES = (8, 32)


def main(artifact: Path, device: str, tokens: int) -> None:
    """Open an artifact and print its figures; `first_text_at` is seconds since 1970."""
    clip = np.random.default_rng(0).normal(scale=0.1, size=RATE * WINDOW_S).astype(np.float32)
    began = time.perf_counter()
    recogniser = exporter.load(artifact, device=device)
    row: dict[str, Any] = {"ready_s": time.perf_counter() - began}

    def run(windows: int, longest: int) -> list[str]:
        found = recogniser.transcribe(
            [clip] * windows,
            sampling_rate=RATE,
            language="en",
            max_new_tokens=longest,
            batch_size=windows,
        )
        return [transcript.text for transcript in found]

    (row["text"],) = run(1, tokens)
    row["first_text_at"] = time.time()
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()
    _timed(row, run, device, tokens)


def _timed(row: dict[str, Any], run: Any, device: str, tokens: int) -> None:
    from benchmarks.cuda.workers.timing import median, memory_used, say, seconds

    row["window_s"] = median(lambda: run(1, tokens), device)
    row["memory_bytes"] = memory_used(device)
    say(row)
    row["first_token_s"] = median(lambda: run(1, 1), device)
    say(row)
    row["batch"] = {}
    for windows in BATCHES:
        run(windows, tokens)
        took = seconds(lambda: run(windows, tokens), device)  # noqa: B023
        row["batch"][str(windows)] = windows / took
        row["memory_bytes"] = memory_used(device)
        say(row)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
