"""OpenVINO GenAI's WhisperPipeline on optimum-intel's export, windows one after another."""

from __future__ import annotations

from typing import Any

import openvino_genai

from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Compile the model for this CPU, with the latency hint and the precision asked for."""
    pipeline = openvino_genai.WhisperPipeline(
        request.model,
        "CPU",
        PERFORMANCE_HINT="LATENCY",
        INFERENCE_NUM_THREADS=request.threads,
        INFERENCE_PRECISION_HINT=request.options["precision"],
    )
    config = pipeline.get_generation_config()
    config.language, config.task = "<|en|>", "transcribe"
    config.return_timestamps = False
    config.num_beams = request.beams
    config.max_new_tokens = config.min_new_tokens = request.tokens
    config.suppress_tokens = [*config.suppress_tokens, config.eos_token_id]
    windows = request.windows()
    told: list[int] = []

    def transcribe() -> list[str]:
        answers = [pipeline.generate(window, config) for window in windows]
        told[:] = [steps(answer, request.beams) for answer in answers]
        return [answer.texts[0] for answer in answers]

    packages = ("openvino", "openvino-genai", "optimum-intel", "nncf")
    return Opened(transcribe, lambda: told, packages)


def steps(answer: Any, beams: int) -> int:
    """Return the decoder's steps: its tokens are counted for each beam, the first one once."""
    generated: int = answer.perf_metrics.get_num_generated_tokens()
    return 1 + (generated - 1) // beams


if __name__ == "__main__":
    serve(open_model)
