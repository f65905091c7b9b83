"""This project's artifacts on a long recording: sequentially, or in chunks of speech."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.worker import Opened, Request, serve
from exporter.recognition.load import load


def open_model(request: Request) -> Opened:
    """Open an artifact, and let it hear a minute."""
    recogniser = load(request.model, threads=request.threads)
    (recording,) = request.windows()
    how: dict[str, Any] = {"timestamps": True}
    if request.options["chunked"]:
        how = {"vad": True, "long_form": "chunked", "batch_size": request.options["batch"]}
    recogniser.transcribe(recording[: 60 * 16_000], sampling_rate=16_000, **how)
    told: list[int] = []

    def transcribe() -> list[str]:
        transcript = recogniser.transcribe(recording, sampling_rate=16_000, **how)
        told[:] = [len(transcript.tokens) // len(transcript.segments)]
        return [segment.text for segment in transcript.segments]

    packages = ("asr-exporter", "numpy", "onnxruntime-gpu", "onnxruntime")
    return Opened(transcribe, lambda: told, packages)


if __name__ == "__main__":
    serve(open_model)
