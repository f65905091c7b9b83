"""CTranslate2's Wav2Vec2, with the parts of transformers around it that its documentation names."""

from __future__ import annotations

import ctranslate2
import numpy as np
import torch

from benchmarks.peers.workers.ctc.greedy import opened
from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the converted model, which takes [batch, 1, samples] and returns logits."""
    model = ctranslate2.models.Wav2Vec2(
        request.model,
        device="cpu",
        compute_type=request.options["compute_type"],
        intra_threads=request.threads,
        inter_threads=1,
    )

    def logits(values: torch.Tensor) -> torch.Tensor:
        samples = np.ascontiguousarray(values[:, None].numpy())
        found = model.encode(ctranslate2.StorageView.from_array(samples), to_cpu=True)
        return torch.from_numpy(np.array(found))

    return opened(logits, request, ("ctranslate2", "transformers", "torch"))


if __name__ == "__main__":
    serve(open_model)
