"""Make the demo checkpoint: synthesize speech, train a small Whisper, measure it, write test clips.

    python recipes/demo/train.py --output DIR [--work SCRATCH]

DIR receives whisper/ (the checkpoint), clips/ (test recordings) and report.json. A stopped run
continues from SCRATCH.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

import checkpoint
import measure
import speech
from training import SEED, Trainer, learning_rate, run_workers, start_logging
from windows import (
    IGNORED,
    LETTERS,
    WINDOW_SECONDS,
    Batch,
    LogMel,
    Window,
    WindowFactory,
    collate,
    coloured_noise,
)

STEPS = 3000
TIGHT_BATCH, FULL_BATCH = 32, 20  # windows in a step over all workers; full ones are longer
PEAK_RATE = 1.5e-3
LOG_EVERY, SAVE_EVERY, SNAPSHOT_EVERY = 50, 250, 500

log = logging.getLogger("train")


@dataclass(frozen=True)
class Phase:
    """What training looks like until a share of the steps is done."""

    until: float
    full: float  # share of batches made of whole windows; the others are cut tight and cost a third
    noisy: float  # share of windows with noise
    letters: float  # weight of the auxiliary CTC loss


# Clean, tight windows first: with noise and padding from the start, attention forms far later.
PHASES = (
    Phase(until=0.30, full=0.08, noisy=0.1, letters=1.0),
    Phase(until=0.60, full=0.30, noisy=0.5, letters=0.4),
    Phase(until=0.95, full=0.65, noisy=0.7, letters=0.3),
    Phase(until=1.00, full=0.80, noisy=0.7, letters=0.0),
)


class Trainee(nn.Module):
    """Whisper plus a letter classifier on its encoder, which is dropped after training."""

    def __init__(self, whisper: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.whisper = whisper
        self.letters = nn.Linear(whisper.config.d_model, len(LETTERS) + 1)

    def encode(self, features: Tensor) -> Tensor:
        """Encode windows of any length; `WhisperEncoder.forward` insists on whole ones."""
        encoder = self.whisper.model.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            hidden = layer(hidden, None, layer_head_mask=None)[0]
        normed: Tensor = encoder.layer_norm(hidden)
        return normed

    def forward(self, batch: Batch, letters_weight: float) -> tuple[Tensor, Tensor]:
        """Return the losses of the decoder and of the letters."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encoded = self.encode(batch.features)
            decoder = self.whisper.model.decoder
            decoded = decoder(
                input_ids=batch.tokens, encoder_hidden_states=encoded, use_cache=False
            )
            logits = self.whisper.proj_out(decoded.last_hidden_state).float()
            letters = self.letters(encoded).float()
        loss = F.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, label_smoothing=0.05
        )
        known = batch.letter_counts > 0
        if letters_weight == 0.0 or not known.any():
            return loss, torch.zeros(())
        frames = torch.full((int(known.sum()),), letters.shape[1])
        scores = letters[known].log_softmax(-1).transpose(0, 1)
        aligned = F.ctc_loss(
            scores, batch.letters[known], frames, batch.letter_counts[known], zero_infinity=True
        )
        return loss, aligned


class Batches:
    """Draws one worker's share of every batch, from nothing but seed, worker and step."""

    def __init__(self, work: Path, tokenizer: WhisperTokenizer, worker: int, workers: int) -> None:
        rng = np.random.default_rng(SEED)
        exponents = (0.0, 0.5, 1.0, 1.5, 2.0)
        noises = [coloured_noise(60 * speech.RATE, exponent, rng) for exponent in exponents]
        self.factory = WindowFactory(*speech.load(work, "train"), tokenizer, noises)
        self.log_mel, self.padding = LogMel(), tokenizer.eos_token_id
        self.worker, self.workers = worker, workers

    def draw(self, step: int, phase: Phase) -> Batch:
        """Return the batch of a step; all workers agree on its kind, so that none waits long."""
        factory = self.factory
        factory.seed(SEED, step)
        full = factory.rng.random() < phase.full
        factory.seed(SEED, step, self.worker)
        size = (FULL_BATCH if full else TIGHT_BATCH) // self.workers
        windows = [self._whole() for _ in range(size)] if full else self._tight(size)
        for window in windows:
            if factory.rng.random() < phase.noisy:
                factory.disturb(window)
        return collate(windows, WINDOW_SECONDS if full else None, self.log_mel, self.padding)

    def _whole(self) -> Window:
        """Draw for a batch of whole windows: single utterances stay in it, as clips are short."""
        choice = self.factory.rng.random()
        if choice < 0.03:
            return self.factory.silence()
        return self.factory.single() if choice < 0.30 else self.factory.packed()

    def _tight(self, size: int) -> list[Window]:
        """Choose neighbours from a larger draw sorted by length: less padding."""
        pool = [self.factory.single() for _ in range(3 * size)]
        pool.sort(key=lambda window: len(window.audio))
        start = self.factory.rng.choice((0, size, 2 * size))
        return pool[start : start + size]


def train(worker: int, workers: int, steps: int, work: Path, output: Path) -> None:
    """Train in one of the workers; the first one saves and reports."""
    tokenizer = WhisperTokenizer.from_pretrained(work / "tokenizer")
    whisper = checkpoint.initial_model(checkpoint.model_config(tokenizer), LogMel())
    # PyTorch's fused attention takes half as long again on a CPU in bfloat16.
    whisper.set_attn_implementation("eager")
    trainee, batches = Trainee(whisper), Batches(work, tokenizer, worker, workers)
    trainer = Trainer(trainee, workers)
    if (work / "state.pt").exists():
        trainer.restore(work / "state.pt")
    while trainer.step < steps:
        started = time.monotonic()
        phase = next(phase for phase in PHASES if trainer.step < phase.until * steps)
        batch = batches.draw(trainer.step, phase)
        loss, letters = trainee(batch, phase.letters)
        trainer.update(
            loss + phase.letters * letters, learning_rate(trainer.step, steps, PEAK_RATE)
        )
        trainer.seconds += time.monotonic() - started
        if worker:
            continue
        if trainer.step % LOG_EVERY == 0:
            figures = (trainer.step, steps, loss.item(), letters.item())
            log.info("step %d of %d: loss %.2f, letters %.2f", *figures)
        if trainer.step % SAVE_EVERY == 0 or trainer.step == steps:
            trainer.save(work / "state.pt")
        if trainer.step % SNAPSHOT_EVERY == 0 or trainer.step == steps:
            checkpoint.export(whisper, work / "tokenizer", output / "whisper")
            log.info("word error rate: %.1f %%", measure.whisper_short(output, limit=40))


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description="Make the demo checkpoint and its test clips.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--work", type=Path, help="scratch folder, OUTPUT/work unless given")
    parser.add_argument("--workers", type=int, default=2, help="another number: another model")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    start_logging(logging.INFO)
    output: Path = arguments.output.resolve()
    work: Path = arguments.work.resolve() if arguments.work else output / "work"
    measure.prepare(work, output, SEED, arguments.workers)
    if not (work / "tokenizer").exists():
        checkpoint.build_tokenizer(work / "tokenizer", speech.load(work, "train")[1])
    run_workers(train, arguments.workers, arguments.steps, work, output)
    report = measure.whisper_figures(output, work)
    seconds = torch.load(work / "state.pt", weights_only=True)["seconds"]
    report["training_minutes"] = round(seconds / 60, 1)
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    log.info("%s", report)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
