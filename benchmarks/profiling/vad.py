"""Time the detector of speech on ten minutes of the demo's clips, in seconds of one core.

python -m benchmarks.profiling.vad
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np

from exporter.formats.audio import blocks, read, whole
from exporter.runtime.vad.silero import RATE, detector

CLIPS = Path(__file__).resolve().parents[2] / "recipes/demo/clips"


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="Length of the recording.")
@click.option("--runs", default=5, show_default=True, help="Timed runs, after one that is not.")
def main(minutes: float, runs: int) -> None:
    """Print the CPU time of each run and the real-time factor of the fastest, as JSON."""
    speech = np.concatenate([whole(read(path, RATE)) for path in sorted(CLIPS.glob("*.flac"))])
    sound = np.resize(speech, round(60 * minutes * RATE))
    detect, seconds = detector(), []
    for _ in range(1 + runs):
        started = time.process_time()
        detect(blocks(sound))
        seconds.append(time.process_time() - started)
    timed = [round(each, 3) for each in seconds[1:]]
    factor = round(60 * minutes / min(timed))
    click.echo(json.dumps({"minutes": minutes, "cpu_s": timed, "times_real_time": factor}))


if __name__ == "__main__":
    main()
