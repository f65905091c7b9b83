"""This project's artifacts in this project's runtime."""

from __future__ import annotations

from benchmarks.peers.workers.worker import Opened, Request, serve
from exporter.recipe import Decoding
from exporter.recognition.load import load


def open_model(request: Request) -> Opened:
    """Open an artifact; its generation config forces the number of tokens."""
    recogniser = load(request.model, threads=request.threads)
    recogniser.opened.force_tokens(request.tokens)
    windows = request.windows()
    decoding = Decoding(
        language="en", task="transcribe", num_beams=request.beams, batch_size=len(windows)
    )
    told: list[int] = []

    def transcribe() -> list[str]:
        transcripts = recogniser.decode(windows, decoding)
        told[:] = [len(transcript.tokens) for transcript in transcripts]
        return [transcript.text for transcript in transcripts]

    packages = ("exporter", "torch", "transformers", "onnxruntime-gpu", "onnxruntime")
    return Opened(transcribe, lambda: told, packages)


if __name__ == "__main__":
    serve(open_model)
