"""This project's artifacts in this project's runtime."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.workers.worker import Opened, Request, serve
from exporter.recipe import Decoding
from exporter.recognition.load import load


class Counted:
    """A built graph whose frames are counted."""

    def __init__(self, graph: Any, frames: list[int]) -> None:
        self.device, self._graph, self._frames = graph.device, graph, frames

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Compute what the graph computes."""
        outputs = self._graph(*inputs, **options)
        self._frames.append(next(iter(outputs.values())).shape[1])
        return outputs


def open_model(request: Request) -> Opened:
    """Open an artifact."""
    recogniser = load(request.model, threads=request.threads)
    windows, frames = request.windows(), list[int]()
    graphs = recogniser.opened.functions
    assert graphs is not None, "an artifact of graphs"
    for name, graph in list(graphs.items()):
        graphs[name] = Counted(graph, frames)

    def transcribe() -> list[str]:
        frames.clear()
        return [transcript.text for transcript in recogniser.decode(windows, Decoding())]

    packages = ("asr-exporter", "torch", "transformers", "onnxruntime-gpu", "onnxruntime")
    return Opened(transcribe, lambda: frames, packages)


if __name__ == "__main__":
    serve(open_model)
