"""Load a model in this process and decode some tokens greedily, with real calls of its decoder.

What `build_shapes.py` runs in a fresh process for each artifact; tells, as JSON, what it gave. The
model may also be any folder that optimum's `ORTModelForSpeechSeq2Seq` loads.

    python -m benchmarks.greedy artifacts/whisper-demo-int8/onnx-int8 --optimum
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import WhisperFeatureExtractor

from exporter.recognition import load
from exporter.runtime.transcript import Audio

ENCODED = 3  # timed runs of the encoder, after one that is not


@dataclass(frozen=True)
class Decoded:
    """Tokens as they came; `finite` tells whether all logits were numbers.

    `margins` are how far each token's logit is above the second, in standard deviations of all.
    """

    tokens: list[int]
    margins: list[float]
    finite: bool
    token_s: float


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--optimum", is_flag=True, help="Load FOLDER with optimum's own class.")
@click.option("--tokens", default=32, show_default=True, help="Tokens to decode.")
@click.option("--threads", type=int, help="Of our runtime. Default: all cores.")
def main(folder: Path, optimum: bool, tokens: int, threads: int | None) -> None:
    """Load the model in FOLDER and decode quiet noise."""
    transformers.utils.logging.set_verbosity_error()
    started = time.perf_counter()
    model = open_in_optimum(folder) if optimum else load.load(folder, threads=threads).model
    load_s = time.perf_counter() - started
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    with torch.inference_mode():
        window, seconds = features(extractor), []
        for _ in range(1 + ENCODED):
            started = time.perf_counter()
            # optimum's encoder wants the mask to be named, though Whisper has none.
            encoded = model.get_encoder()(window, attention_mask=None)
            seconds.append(time.perf_counter() - started)
        decoded = decode(model, encoded, tokens)
    encode_s = statistics.median(seconds[1:])
    click.echo(json.dumps({"load_s": load_s, "encode_s": encode_s, **vars(decoded)}))


def open_in_optimum(folder: Path) -> Any:
    """Load a folder of ONNX files as its users do, with optimum alone."""
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

    return ORTModelForSpeechSeq2Seq.from_pretrained(folder)


def noise(extractor: WhisperFeatureExtractor) -> Audio:
    """Return one full window of quiet noise, mono [samples]."""
    samples: int = extractor.n_samples
    return np.random.default_rng(0).normal(0, 0.01, samples).astype(np.float32)


def features(extractor: WhisperFeatureExtractor) -> Tensor:
    """Return what the encoder takes for that noise: [1, mels, frames]."""
    rate = extractor.sampling_rate
    found: Tensor = extractor(
        noise(extractor), sampling_rate=rate, return_tensors="pt"
    ).input_features
    return found


def decode(model: Any, encoded: Any, tokens: int) -> Decoded:
    """Decode greedily from an encoded window; `token_s` is the median of the single calls."""
    ids = torch.tensor([[model.config.decoder_start_token_id]])
    cache = None
    told: list[int] = []
    margins: list[float] = []
    seconds = []
    finite = True
    for _ in range(tokens):
        started = time.perf_counter()
        step = model(
            decoder_input_ids=ids, encoder_outputs=encoded, past_key_values=cache, use_cache=True
        )
        seconds.append(time.perf_counter() - started)
        finite = finite and bool(step.logits.isfinite().all())
        cache = step.past_key_values
        logits = step.logits[0, -1].float()
        best, second = logits.topk(2).values
        margins.append(float((best - second) / logits.std()))
        ids = step.logits[:, -1:].argmax(-1)
        told.append(int(ids))
    return Decoded(told, margins, finite, statistics.median(seconds))


if __name__ == "__main__":
    main()
