"""One way to run a Whisper on a card in transformers, as published systems do, timed.

    python -m benchmarks.cuda.workers.baselines WAY CHECKPOINT DEVICE TOKENS

Ways: `eager` in float16; `compiled`, with a static cache and CUDA graphs by torch.compile;
`autocast`, float32 weights in float16 autocast, compiled; `bitsandbytes`, int8 weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from benchmarks.cuda.workers.timing import median, memory_used, say, seconds, window

BATCH = 8


def _float16(device: str) -> torch.dtype:
    return torch.float16 if device == "cuda" else torch.float32


def eager(checkpoint: Path, device: str) -> Any:
    """Open the model in float16, as it is."""
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=_float16(device))
    return model.to(device)


def compiled(checkpoint: Path, device: str) -> Any:
    """Open the model in float16, with a static cache and a compiled step.

    Source: the model card of openai/whisper-large-v3.
    """
    model = eager(checkpoint, device)
    model.generation_config.cache_implementation = "static"
    model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    return model


def autocast(checkpoint: Path, device: str) -> Any:
    """Open the model in float32, compiled; it runs in float16 where autocast says so."""
    model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    model = model.to(device)
    model.forward = torch.compile(model.forward)
    return model


def bitsandbytes(checkpoint: Path, device: str) -> Any:
    """Open the model with int8 weights of bitsandbytes."""
    from transformers import BitsAndBytesConfig

    return WhisperForConditionalGeneration.from_pretrained(
        checkpoint,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        dtype=torch.float16,
        device_map=device,
    )


WAYS: dict[str, Callable[[Path, str], Any]] = {
    "eager": eager,
    "compiled": compiled,
    "autocast": autocast,
    "bitsandbytes": bitsandbytes,
}


def main(way: str, checkpoint: Path, device: str, tokens: int) -> None:
    """Open the model one way and print its figures."""
    began = time.perf_counter()
    model = WAYS[way](checkpoint, device).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)
    ready = time.perf_counter() - began

    def run(windows: int, longest: int) -> Any:
        with torch.inference_mode(), _precision(way, device):
            given = extractor([window()] * windows, sampling_rate=16000, return_tensors="pt")
            features = given.input_features.to(device, model.dtype)
            return model.generate(features, max_new_tokens=longest, language="en", num_beams=1)

    first = seconds(lambda: run(1, tokens), device)
    # A second call warms what the first has compiled for other lengths.
    second = seconds(lambda: run(1, tokens), device)
    row: dict[str, Any] = {"ready_s": ready, "first_s": first, "warm_up_s": first + second}
    (said,) = run(1, tokens)
    tokenizer = WhisperTokenizerFast.from_pretrained(checkpoint)
    row["tokens"] = len(said)
    row["text"] = tokenizer.decode(said, skip_special_tokens=True).strip()
    row["window_s"] = median(lambda: run(1, tokens), device)
    row["memory_bytes"] = memory_used(device)
    say(row)
    row["first_token_s"] = median(lambda: run(1, 1), device)
    say(row)
    if way == "eager":
        run(BATCH, tokens)
        row["batch"] = {str(BATCH): BATCH / median(lambda: run(BATCH, tokens), device, 3)}
        say(row)


def _precision(way: str, device: str) -> AbstractContextManager[Any]:
    if way != "autocast":
        return nullcontext()
    return torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
