"""This project's artifacts in this project's runtime."""

from __future__ import annotations

from benchmarks.peers.workers.worker import Opened, Request, serve
from exporter.recognition.load import load


def open_model(request: Request) -> Opened:
    """Open an artifact, which is made to decode so many tokens."""
    recogniser = load(request.model, threads=request.threads)
    recogniser.opened.force_tokens(request.tokens)
    windows = request.windows()
    how = {"language": "en", "num_beams": request.beams, "batch_size": len(windows)}
    told: list[int] = []

    def transcribe() -> list[str]:
        transcripts = recogniser.transcribe(windows, sampling_rate=16_000, **how)
        told[:] = [len(transcript.tokens) for transcript in transcripts]
        return [transcript.text for transcript in transcripts]

    packages = ("asr-exporter", "torch", "transformers", "onnxruntime-gpu", "onnxruntime")
    return Opened(transcribe, lambda: told, packages)


if __name__ == "__main__":
    serve(open_model)
