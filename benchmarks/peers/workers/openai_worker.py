"""openai-whisper in float32: its log-mel and its decoding, without the fallbacks around them."""

from __future__ import annotations

import torch
from whisper.tokenizer import get_tokenizer

import whisper
from benchmarks.peers.workers.worker import Opened, Request, serve


def open_model(request: Request) -> Opened:
    """Load the dictionary that benchmarks/peers/workers/openai_convert.py wrote."""
    torch.set_num_threads(request.threads)
    model = whisper.load_model(f"{request.model}/model.pt", device="cpu")
    windows = request.windows()
    end = get_tokenizer(model.is_multilingual, num_languages=model.num_languages).eot
    told: list[int] = []

    def transcribe() -> list[str]:
        options = whisper.DecodingOptions(
            language="en",
            beam_size=request.beams if request.beams > 1 else None,
            sample_len=request.tokens,
            suppress_tokens=[end],
            without_timestamps=True,
            fp16=False,
        )
        mels = [whisper.log_mel_spectrogram(window, model.dims.n_mels) for window in windows]
        results = whisper.decode(model, torch.stack(mels), options)
        told[:] = [len(result.tokens) for result in results]
        return [result.text for result in results]

    return Opened(transcribe, lambda: told, ("openai-whisper", "torch"))


if __name__ == "__main__":
    serve(open_model)
