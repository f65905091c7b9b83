"""Plain transformers in float32, or with its Linear modules quantized dynamically by torch."""

from __future__ import annotations

import torch
from transformers import AutoModelForCTC

from benchmarks.peers.workers.ctc.greedy import opened
from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the checkpoint itself."""
    model = AutoModelForCTC.from_pretrained(request.model, dtype=torch.float32).eval()
    if request.options.get("int8"):
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)

    def logits(values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(values).logits
        return found

    return opened(logits, request, ("transformers", "torch"))


if __name__ == "__main__":
    serve(open_model)
