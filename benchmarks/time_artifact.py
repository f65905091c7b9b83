"""Time one artifact, or an original checkpoint: load, one encoder window, one token, a whole text.

Medians after a warm-up, as JSON. Compare only figures of one machine, taken one after the other
while nothing else runs; `load_average` tells whether something did.

    python benchmarks/time_artifact.py artifacts/whisper-demo-int8/aoti
    python benchmarks/time_artifact.py recipes/demo/whisper --original
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import transformers

from benchmarks.greedy import decode, features, noise
from exporter import machine, runtime


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--original", is_flag=True, help="PATH is a checkpoint, to be run in float32.")
@click.option("--audio", type=click.Path(path_type=Path, exists=True), help="Default: noise.")
@click.option("--tokens", default=64, show_default=True, help="Tokens to decode per run.")
@click.option("--runs", default=10, show_default=True, help="Timed runs of each part.")
@click.option("--threads", type=int, help="Default: all cores.")
def main(
    path: Path, original: bool, audio: Path | None, tokens: int, runs: int, threads: int | None
) -> None:
    """Time the artifact (or checkpoint) at PATH."""
    transformers.utils.logging.set_verbosity_error()
    busy = os.getloadavg()[0]
    started = time.perf_counter()
    if original:
        recogniser = runtime.load_original(str(path), threads=threads)
    else:
        recogniser = runtime.load(path, threads)
    load_s = time.perf_counter() - started
    sound = audio or noise(recogniser.processor.feature_extractor)
    figures = {
        "path": str(path),
        "load_s": load_s,
        **time_parts(recogniser, tokens, runs),
        "transcribe_s": median_s(lambda: recogniser.transcribe(sound), runs),
        "tokens": tokens,
        "runs": runs,
        "threads": torch.get_num_threads(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "load_average": busy,
        "machine": machine.describe().as_dict(),
    }
    click.echo(json.dumps(figures, indent=2))


def time_parts(recogniser: runtime.Recogniser, tokens: int, runs: int) -> dict[str, float]:
    """Time the encoder's window and the decoder's token, without `generate` and text."""
    model = recogniser.model
    window = features(recogniser.processor.feature_extractor)
    with torch.inference_mode():
        encode = model.get_encoder()
        encoded = encode(window)
        return {
            "encoder_window_s": median_s(lambda: encode(window), runs),
            "first_token_s": median_s(lambda: decode(model, encoded, 1), runs),
            "token_s": statistics.median(
                decode(model, encoded, tokens).token_s for _ in range(runs + 1)
            ),
        }


def median_s(call: Callable[[], object], runs: int) -> float:
    """Return the median seconds of `runs` calls after one that does not count."""
    call()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
