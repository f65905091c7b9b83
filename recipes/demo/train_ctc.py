"""Make the demo's CTC checkpoint: train a small wav2vec2 on the synthesized speech, measure it.

    python recipes/demo/train_ctc.py --output DIR [--work SCRATCH]

DIR receives ctc/ (the checkpoint), clips/ (test recordings) and report.json. A stopped run
continues from SCRATCH.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2ForCTC
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2FeatureEncoder,
    Wav2Vec2LayerNormConvLayer,
)

import checkpoint
import measure
import speech
from training import SEED, Trainer, learning_rate, run_workers, start_logging
from windows import WINDOW_SECONDS, LogMel, Mixer, Window, coloured_noise

STEPS = 8000
POOL = 96  # recordings drawn for each batch, of which neighbours in length are taken
PEAK_RATE = 1.5e-3
LOG_EVERY, SAVE_EVERY, SNAPSHOT_EVERY = 50, 100, 500
FRAME = 320  # samples between two frames
FIELD = 400  # samples that a frame is computed from

log = logging.getLogger("train_ctc")


@dataclass(frozen=True)
class Phase:
    """What training looks like until a share of the steps is done."""

    until: float
    seconds: float  # of audio in a batch over all workers, with its padding
    joined: float  # share of batches made of several utterances in a row
    noisy: float  # share of clips with noise
    spectrum: float  # weight of the auxiliary loss
    frozen: bool = False  # the front end learns no more, which makes steps faster


# A front end that is first taught the spectrum soon leaves the state in which all is blank.
PHASES = (
    Phase(until=0.06, seconds=40, joined=0.0, noisy=0.1, spectrum=5.0),
    Phase(until=0.15, seconds=40, joined=0.0, noisy=0.1, spectrum=1.0),
    Phase(until=0.30, seconds=40, joined=0.1, noisy=0.3, spectrum=0.0),
    Phase(until=0.60, seconds=24, joined=0.1, noisy=0.3, spectrum=0.0, frozen=True),
    Phase(until=1.00, seconds=24, joined=0.2, noisy=0.6, spectrum=0.0, frozen=True),
)


@dataclass(frozen=True)
class Batch:
    """Clips padded to a common length."""

    audio: Tensor
    frames: Tensor  # of each clip
    labels: Tensor
    counts: Tensor  # labels of each clip


class Trainee(nn.Module):
    """wav2vec2 plus a spectrum on its front end, which is dropped after training."""

    def __init__(self, model: Wav2Vec2ForCTC) -> None:
        super().__init__()
        self.model, self.log_mel = model, LogMel()
        self.spectrum = nn.Linear(model.config.conv_dim[-1], len(self.log_mel.filters))

    def forward(self, batch: Batch, phase: Phase) -> tuple[Tensor, Tensor]:
        """Return the losses of the letters and of the spectrum."""
        wav2vec2 = self.model.wav2vec2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.set_grad_enabled(not phase.frozen):
                features = front_end(wav2vec2.feature_extractor, batch.audio)
            hidden, normed = wav2vec2.feature_projection(features)
            mask = torch.arange(hidden.shape[1]) < batch.frames[:, None]
            encoded = wav2vec2.encoder(hidden, attention_mask=mask).last_hidden_state
            logits = self.model.lm_head(encoded).float()
        scores = logits.log_softmax(-1).transpose(0, 1)
        letters = F.ctc_loss(scores, batch.labels, batch.frames, batch.counts, zero_infinity=True)
        if phase.spectrum == 0.0:
            return letters, torch.zeros(())
        # Frame n hears samples 320 n to 320 n + 400: mel frame 2 n + 1 has nearly the same window.
        target = self.log_mel(batch.audio)[..., 1::2][..., : normed.shape[1]].transpose(1, 2)
        return letters, F.mse_loss(self.spectrum(normed.float()), target)


def front_end(encoder: Wav2Vec2FeatureEncoder, audio: Tensor) -> Tensor:
    """Compute transformers' convolutions as matrix products; training is twice as fast so.

    Args:
        encoder: A front end of wav2vec2's kernels and strides with layer norm.
        audio: Samples (batch, samples), a multiple of 320.

    Returns:
        (batch, samples / 320 - 1, channels).
    """
    first, *others = encoder.conv_layers
    frames = F.pad(audio, (0, 5)).unfold(1, 10, 5)
    hidden = _activate(first, F.linear(frames, first.conv.weight[:, 0], first.conv.bias))
    for layer in others:
        weight, channels = layer.conv.weight, hidden.shape[2]
        pairs = hidden.reshape(len(hidden), -1, 2 * channels)
        product = F.linear(pairs, weight[..., :2].transpose(1, 2).flatten(1), layer.conv.bias)
        if weight.shape[2] == 3:
            # The third tap falls on the first half of the next pair; the last frame lacks it.
            third = F.linear(pairs[:, 1:, :channels], weight[..., 2])
            product = product + F.pad(third, (0, 0, 0, 1))
        hidden = _activate(layer, product)
    return hidden[:, :-1]


def _activate(layer: Wav2Vec2LayerNormConvLayer, product: Tensor) -> Tensor:
    activated: Tensor = layer.activation(layer.layer_norm(product))
    return activated


class Batches:
    """Draws one worker's share of every batch, from nothing but seed, worker and step."""

    def __init__(self, work: Path, worker: int, workers: int) -> None:
        rng = np.random.default_rng(SEED)
        exponents = (0.0, 0.5, 1.0, 1.5, 2.0)
        noises = [coloured_noise(60 * speech.RATE, exponent, rng) for exponent in exponents]
        self.mixer = Mixer(*speech.load(work, "train"), noises)
        self.worker, self.workers = worker, workers

    def draw(self, step: int, phase: Phase) -> Batch:
        """Return the batch of a step: clips of similar length, as many as fill the seconds."""
        mixer = self.mixer
        mixer.seed(SEED, step)
        joined = mixer.rng.random() < phase.joined
        pool = [self._row() if joined else mixer.alone() for _ in range(POOL)]
        pool.sort(key=lambda drawn: drawn[1])
        last = mixer.rng.randrange(POOL // 5, POOL)
        count = max(self.workers, int(phase.seconds / pool[last][1]))
        chosen = pool[max(0, last + 1 - count) : last + 1]
        mixer.seed(SEED, step, self.worker)
        windows = [mixer.mix(*drawn) for drawn in chosen[self.worker :: self.workers]]
        for window in windows:
            if mixer.rng.random() < phase.noisy:
                mixer.disturb(window)
        return collate(windows)

    def _row(self) -> tuple[list[tuple[int, float]], float]:
        """Draw utterances with pauses between them."""
        rng, mixer = self.mixer.rng, self.mixer
        placed, length = mixer.alone()
        while length < WINDOW_SECONDS and (len(placed) < 2 or rng.random() < 0.7):
            index, start = rng.randrange(len(mixer.recordings)), length + rng.uniform(0.1, 0.8)
            placed.append((index, start))
            length = mixer.end(placed[-1]) + rng.uniform(0.0, 0.3)
        return placed, length


def collate(windows: list[Window]) -> Batch:
    """Normalise each clip as the feature extractor does, and pad to the longest."""
    longest = max(len(window.audio) for window in windows)
    # One frame more, since `front_end` drops the last one.
    audio = torch.zeros(len(windows), (-(-longest // FRAME) + 1) * FRAME)
    for row, window in zip(audio, windows, strict=True):
        samples = torch.from_numpy(window.audio)
        variance, mean = torch.var_mean(samples, correction=0)
        row[: len(samples)] = (samples - mean) / torch.sqrt(variance + 1e-7)
    # Without the space before the first word.
    labels = [[checkpoint.ctc_label(letter) for letter in window.letters[1:]] for window in windows]
    width = max(map(len, labels))
    return Batch(
        audio=audio,
        frames=torch.tensor([(len(window.audio) - FIELD) // FRAME + 1 for window in windows]),
        labels=torch.tensor([row + [0] * (width - len(row)) for row in labels]),
        counts=torch.tensor([len(row) for row in labels]),
    )


def train(worker: int, workers: int, steps: int, work: Path, output: Path) -> None:
    """Train in one of the workers; the first one saves and reports."""
    model = checkpoint.initial_ctc()
    # PyTorch's fused attention takes half as long again on a CPU in bfloat16.
    model.set_attn_implementation("eager")
    trainee, batches = Trainee(model), Batches(work, worker, workers)
    trainer, state = Trainer(trainee, workers), work / "ctc-state.pt"
    if state.exists():
        trainer.restore(state)
    while trainer.step < steps:
        started = time.monotonic()
        phase = next(phase for phase in PHASES if trainer.step < phase.until * steps)
        letters, spectrum = trainee(batches.draw(trainer.step, phase), phase)
        loss = letters + phase.spectrum * spectrum
        trainer.update(loss, learning_rate(trainer.step, steps, PEAK_RATE))
        trainer.seconds += time.monotonic() - started
        if worker:
            continue
        if trainer.step % LOG_EVERY == 0:
            figures = (trainer.step, steps, letters.item(), spectrum.item(), trainer.seconds)
            log.info("step %d of %d: letters %.2f, spectrum %.3f, %.0f s", *figures)
        if trainer.step % SAVE_EVERY == 0 or trainer.step == steps:
            trainer.save(state)
        if trainer.step % SNAPSHOT_EVERY == 0 or trainer.step == steps:
            checkpoint.export_ctc(model, output / "ctc")
            log.info("word error rate: %.1f %%", measure.ctc_short(output))


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description="Make the demo's CTC checkpoint.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--work", type=Path, help="scratch folder, OUTPUT/work unless given")
    parser.add_argument("--workers", type=int, default=2, help="another number: another model")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    start_logging(logging.INFO)
    output: Path = arguments.output.resolve()
    work: Path = arguments.work.resolve() if arguments.work else output / "work"
    measure.prepare(work, output, SEED, arguments.workers)
    run_workers(train, arguments.workers, arguments.steps, work, output)
    report = measure.ctc_figures(output, work)
    seconds = torch.load(work / "ctc-state.pt", weights_only=True)["seconds"]
    report["training_minutes"] = round(seconds / 60, 1)
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    log.info("%s", report)


if __name__ == "__main__":
    main()
