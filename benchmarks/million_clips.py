"""Judge a million synthetic clips: seconds, and the peak of memory.

Each process draws the errors of two sides that are alike, on clips of some speakers, and lets the
gate judge them: both error rates with their intervals, the latency, every check and the figures.

    python -m benchmarks.million_clips
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from exporter.recipe import Gate
from exporter.validate.gate import judge as gate
from exporter.validate.gate.latency import TIMED_CLIPS
from exporter.validate.scoring.compare import Comparison, ScoredRun
from exporter.validate.scoring.statistics import Counts
from exporter.validate.scoring.units import units_of
from exporter.validate.scoring.wer import Scores
from tests.support.judging import measurement

ROOT = Path(__file__).resolve().parents[1]
SPEAKERS = (0, 1_000, 100_000)
_NOTHING = {"text": "", "pred_text": "", "pred_text_reference": "", "audio_filepath": "a.wav"}


class _Rows:
    """Stands for predictions.jsonl."""

    def __getitem__(self, index: int) -> dict[str, str]:
        return _NOTHING


def comparison(clips: int, speakers: int) -> Comparison:
    """Two sides of which one changes 6 % of the clips, for better and for worse."""
    random = np.random.default_rng(0)
    words = np.maximum(random.lognormal(np.log(20), 0.5, clips).round(), 1).astype(np.int64)
    ours = random.binomial(words, 0.04)
    size = random.geometric(0.65, clips) * random.choice([-1, 1], clips)
    theirs = np.maximum(ours + np.where(random.random(clips) < 0.06, size, 0), 0)
    names = random.integers(speakers, size=clips).tolist() if speakers else [None] * clips
    units = units_of((None if name is None else str(name), None) for name in names)
    timed = np.arange(TIMED_CLIPS) * (clips // TIMED_CLIPS)
    return Comparison(
        durations_s=random.uniform(1, 30, clips),
        timed=timed,
        reference=_side(words, ours),
        candidate=_side(words, theirs),
        changed=np.flatnonzero(ours != theirs),
        newly_empty=0,
        newly_looping=0,
        newly_unusable=0,
        units=units,
        rows=_Rows(),
        normalise=str.strip,
    )


def _side(words: Counts, errors: Counts) -> ScoredRun:
    none = np.zeros_like(words)
    scores = Scores(words, errors, none, none, 5 * words + errors % 3, 2 * errors)
    return ScoredRun(measurement(TIMED_CLIPS), scores, 1)


@click.command(help=__doc__)
@click.option("--clips", default=1_000_000, show_default=True)
@click.option("--speakers", type=int, help="Judge in this process; 0: the data name none.")
def main(clips: int, speakers: int | None) -> None:
    """Print the figures of every case, or judge one."""
    if speakers is not None:
        click.echo(json.dumps(judged(clips, speakers)))
        return
    for count in SPEAKERS:
        asked = ["--clips", str(clips), "--speakers", str(count)]
        command = [sys.executable, "-m", "benchmarks.million_clips", *asked]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        wall_s, cpu_s, peak, sentence = json.loads(done.stdout)
        memory = f"{peak / 1e6:,.0f} MB"
        who = f"{count:,} speakers" if count else "no speakers named"
        times = f"{wall_s:.1f} s ({cpu_s:.1f} s of a processor)"
        click.echo(f"{clips:,} clips, {who}: {times}, {memory}. {sentence}")


def judged(clips: int, speakers: int) -> tuple[float, float, int, str]:
    """Return the seconds of judging, by the clock and of the processor, the peak, and the words."""
    one = comparison(clips, speakers)
    began, cpu = time.perf_counter(), time.process_time()
    found = gate.judge(one, Gate(min_clips=50), files=1)
    gate.figures(one.candidate, one.timed_audio_s)
    gate.slices(one)
    gate.worst(one)
    seconds = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sentence = next(check.sentence for check in found.checks if check.name == "wer")
    return *seconds, peak, sentence


if __name__ == "__main__":
    main()
