"""Whole transcriptions through transformers' `generate`: what several rivals' workers share."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor

from benchmarks.peers.workers.worker import Opened, Request


class Steps(LogitsProcessor):  # type: ignore[misc]
    """Counts the steps of `generate`, and lets none tell a time.

    Random weights would tell times, at which `generate` cuts a window in two and decodes again.
    """

    def __init__(self, first_time: int) -> None:
        self.count = 0
        self._first_time = first_time

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores, those of times out of reach."""
        self.count += 1
        scores[:, self._first_time :] = -torch.inf
        return scores


def opened(
    model: Any,
    processor: Any,
    request: Request,
    packages: tuple[str, ...],
    dtype: torch.dtype = torch.float32,
) -> Opened:
    """Join the parts: log-mel, `generate` with exactly so many tokens, text."""
    torch.set_num_threads(request.threads)
    windows = request.windows()
    rate = processor.feature_extractor.sampling_rate
    steps = Steps(model.generation_config.no_timestamps_token_id + 1)

    def transcribe() -> list[str]:
        steps.count = 0
        features = processor(windows, sampling_rate=rate, return_tensors="pt").input_features
        with torch.inference_mode():
            tokens = model.generate(
                features.to(dtype),
                language="en",
                task="transcribe",
                num_beams=request.beams,
                min_new_tokens=request.tokens,
                max_new_tokens=request.tokens,
                logits_processor=[steps],
            )
        texts: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
        return texts

    return Opened(transcribe, lambda: [steps.count] * len(windows), packages)
