"""optimum-intel's own class on the same export as OpenVINO GenAI's pipeline."""

from __future__ import annotations

from optimum.intel import OVModelForSpeechSeq2Seq
from transformers import WhisperProcessor

from benchmarks.peers.workers.generation import opened
from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Compile the model for this CPU, with the latency hint and the precision asked for."""
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(request.threads),
        "INFERENCE_PRECISION_HINT": request.options["precision"],
    }
    model = OVModelForSpeechSeq2Seq.from_pretrained(request.model, device="CPU", ov_config=hints)
    processor = WhisperProcessor.from_pretrained(request.checkpoint)
    packages = ("openvino", "optimum-intel", "transformers", "torch", "nncf")
    return opened(model, processor, request, packages)


if __name__ == "__main__":
    serve(open_model)
