"""faster-whisper on CTranslate2: its own pipeline for one window, its batched one for several."""

from __future__ import annotations

from typing import Any

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel

from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the converted model; every fallback and filter that could decode twice is off."""
    model = WhisperModel(
        request.model,
        device="cpu",
        compute_type=request.options["compute_type"],
        cpu_threads=request.threads,
        num_workers=1,
    )
    windows = request.windows()
    settings = decoding(model, request)
    told: list[int] = []
    if len(windows) > 1:
        recording, clips = joined(windows)
        pipeline: Any = BatchedInferencePipeline(model)
        settings |= {"clip_timestamps": clips, "batch_size": len(windows)}
    else:
        recording, pipeline = windows[0], model
        settings |= {"condition_on_previous_text": False}

    def transcribe() -> list[str]:
        segments = list(pipeline.transcribe(recording, **settings)[0])
        told[:] = [len(segment.tokens) for segment in segments]
        return [segment.text for segment in segments]

    return Opened(transcribe, lambda: told, ("faster-whisper", "ctranslate2"))


def decoding(model: WhisperModel, request: Request) -> dict[str, Any]:
    """Return the settings that force the number of tokens, and one pass over each window."""
    vocabulary = model.hf_tokenizer
    end = vocabulary.token_to_id("<|endoftext|>")
    first_time = vocabulary.token_to_id("<|notimestamps|>") + 1
    return {
        "language": "en",
        "task": "transcribe",
        "beam_size": request.beams,
        "best_of": 1,
        "temperature": 0.0,
        "compression_ratio_threshold": None,
        "log_prob_threshold": None,
        "no_speech_threshold": None,
        "without_timestamps": True,
        "vad_filter": False,
        "max_new_tokens": new_tokens(request.tokens),
        # Random weights would tell times, at which faster-whisper cuts a window in two.
        "suppress_tokens": [end, *range(first_time, vocabulary.get_vocab_size())],
    }


def new_tokens(tokens: int) -> int:
    """Return what to ask for: CTranslate2 stops at half of prompt and new tokens together."""
    prompt = 4
    return max(tokens, 2 * tokens - prompt)


def joined(windows: list[Any]) -> tuple[Any, list[dict[str, float]]]:
    """Return one recording, and where its windows lie, as the batched pipeline takes them."""
    seconds = len(windows[0]) / 16000
    clips = [
        {"start": index * seconds, "end": (index + 1) * seconds} for index in range(len(windows))
    ]
    return np.concatenate(windows), clips


if __name__ == "__main__":
    serve(open_model)
