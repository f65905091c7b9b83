"""From samples to text through a function that computes logits: what several workers share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from benchmarks.peers.workers.worker import Opened, Request

RATE = 16000


def opened(
    logits: Callable[[torch.Tensor], torch.Tensor], request: Request, packages: tuple[str, ...]
) -> Opened:
    """Join the parts: normalised samples, logits, the likeliest token of each frame, text.

    Clips run one by one, as a checkpoint with group norm asks for.
    """
    torch.set_num_threads(request.threads)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(request.checkpoint)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(request.checkpoint)
    windows = request.windows()
    frames: list[int] = []

    def transcribe() -> list[str]:
        frames.clear()
        texts = []
        for window in windows:
            inputs = extractor(window, sampling_rate=RATE, return_tensors="pt")
            with torch.inference_mode():
                best = logits(inputs.input_values)[0].argmax(-1)
            frames.append(len(best))
            texts.append(tokenizer.decode(best))
        return texts

    return Opened(transcribe, lambda: frames, packages)
