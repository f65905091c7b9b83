"""optimum's own artifact in optimum's runtime, as its users load it."""

from __future__ import annotations

import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForCTC

from benchmarks.peers.workers.ctc.greedy import opened
from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the quantized graph with onnxruntime's threads set."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    model = ORTModelForCTC.from_pretrained(
        request.model, file_name="model_quantized.onnx", session_options=options
    )

    def logits(values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(values).logits
        return found

    packages = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")
    return opened(logits, request, packages)


if __name__ == "__main__":
    serve(open_model)
