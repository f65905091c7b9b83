"""Plain transformers: eager, or compiled with a static cache as its documentation tells."""

from __future__ import annotations

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from benchmarks.peers.workers.generation import opened
from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the checkpoint itself in the type asked for."""
    torch.set_num_threads(request.threads)
    dtype = getattr(torch, request.options["dtype"])
    model = WhisperForConditionalGeneration.from_pretrained(request.model, dtype=dtype).eval()
    if request.options.get("compile"):
        model.generation_config.cache_implementation = "static"
        # `generate` calls the encoder by itself, past the model's own forward.
        encoder = model.get_encoder()
        encoder.forward = torch.compile(encoder.forward)
        model.forward = torch.compile(model.forward)
    processor = WhisperProcessor.from_pretrained(request.checkpoint)
    return opened(model, processor, request, ("transformers", "torch"), dtype)


if __name__ == "__main__":
    serve(open_model)
