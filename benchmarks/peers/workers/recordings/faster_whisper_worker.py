"""faster-whisper on a long recording: its own pipeline, or the batched one with its detector."""

from __future__ import annotations

from typing import Any

from faster_whisper import BatchedInferencePipeline, WhisperModel

from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the converted model, and let it hear a minute; nothing is decoded twice."""
    model = WhisperModel(
        request.model,
        device="cpu",
        compute_type=request.options["compute_type"],
        cpu_threads=request.threads,
        num_workers=1,
    )
    (recording,) = request.windows()
    how: dict[str, Any] = {
        "language": "en",
        "task": "transcribe",
        "beam_size": request.beams,
        "temperature": 0.0,
        "compression_ratio_threshold": None,
        "log_prob_threshold": None,
        "no_speech_threshold": None,
    }
    pipeline: Any = model
    if request.options["chunked"]:
        pipeline = BatchedInferencePipeline(model)
        how["batch_size"] = request.options["batch"]
    else:
        how["condition_on_previous_text"] = False
    list(pipeline.transcribe(recording[: 60 * 16_000], **how)[0])
    end = model.hf_tokenizer.token_to_id("<|endoftext|>")
    told: list[int] = []

    def transcribe() -> list[str]:
        segments = list(pipeline.transcribe(recording, **how)[0])
        texts = sum(token < end for segment in segments for token in segment.tokens)
        told[:] = [texts // len(segments)]
        return [segment.text for segment in segments]

    return Opened(transcribe, lambda: told, ("faster-whisper", "ctranslate2"))


if __name__ == "__main__":
    serve(open_model)
