"""optimum's own artifact in optimum's runtime, as its users load it."""

from __future__ import annotations

import onnxruntime
from optimum.onnxruntime import ORTModelForSpeechSeq2Seq
from transformers import WhisperProcessor

from benchmarks.peers.workers.generation import opened
from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the quantized graphs with onnxruntime's threads set."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    model = ORTModelForSpeechSeq2Seq.from_pretrained(
        request.model,
        session_options=options,
        **request.options,
    )
    processor = WhisperProcessor.from_pretrained(request.checkpoint)
    packages = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")
    return opened(model, processor, request, packages)


if __name__ == "__main__":
    serve(open_model)
