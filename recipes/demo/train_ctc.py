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
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import checkpoint
import measure
import speech
from training import SEED, Trainer, learning_rate, run_workers, start_logging
from windows import WINDOW_SECONDS, LogMel, Mixer, Window, coloured_noise

STEPS = 6000
IMITATION = 800  # first steps, in which the front end alone learns
POOL = 96  # recordings drawn for each batch, of which neighbours in length are taken
IMITATION_RATE, PEAK_RATE = 3e-3, 1e-3
LOG_EVERY, SAVE_EVERY, SNAPSHOT_EVERY = 50, 100, 500
FRAME = checkpoint.FRAME  # samples between two frames, as in Whisper's encoder
FIELD = checkpoint.FIELD  # samples that a frame is computed from
LEVEL = 0.1  # root mean square of the clips that Whisper was trained on, in order of magnitude

log = logging.getLogger("train_ctc")


@dataclass(frozen=True)
class Phase:
    """What a batch is made of until a step, of all that follow the imitation."""

    until: float  # a share of them
    seconds: float  # of audio in a batch over all workers, with its padding
    joined: float  # share of batches made of several utterances in a row
    noisy: float  # share of clips with noise
    whisper: float  # weight of the distance from Whisper


FIRST = Phase(until=0.0, seconds=40, joined=0.1, noisy=0.3, whisper=1.0)
PHASES = (
    Phase(until=0.2, seconds=40, joined=0.0, noisy=0.1, whisper=2.0),
    Phase(until=0.5, seconds=40, joined=0.1, noisy=0.3, whisper=1.0),
    Phase(until=1.0, seconds=40, joined=0.2, noisy=0.6, whisper=0.2),
)


@dataclass(frozen=True)
class Batch:
    """Clips padded to a common length."""

    audio: Tensor
    frames: Tensor  # of each clip
    labels: Tensor
    counts: Tensor  # labels of each clip


class Trainee(nn.Module):
    """wav2vec2, and the encoder of the Whisper that it learns from."""

    def __init__(self, model: Wav2Vec2ForCTC, whisper: WhisperEncoder) -> None:
        super().__init__()
        self.model, self.whisper, self.log_mel = model, whisper, LogMel()
        self.whisper.requires_grad_(False)

    def forward(self, batch: Batch, *, words: bool) -> tuple[Tensor, Tensor]:
        """Return the distance of what it makes of the audio from Whisper's, and the CTC loss.

        Without words the distance is that of the front end's features, and the loss is zero; else
        the distance is that of what follows as many layers as Whisper has.
        """
        wav2vec2 = self.model.wav2vec2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = front_end(wav2vec2.feature_extractor, batch.audio)
            hidden = wav2vec2.feature_projection(features)[0]
            mask = torch.arange(hidden.shape[1]) < batch.frames[:, None]
            taught = self._convolutions(batch.audio, hidden.shape[1])
            if not words:
                return _distance(hidden, taught[:, 1:], mask), torch.zeros(())
            heard = self._layers(taught)[:, 1:]
            encoded = wav2vec2.encoder(hidden, attention_mask=mask, output_hidden_states=True)
            logits = self.model.lm_head(encoded.last_hidden_state).float()
            middle = wav2vec2.encoder.layer_norm(encoded.hidden_states[len(self.whisper.layers)])
        scores = logits.log_softmax(-1).transpose(0, 1)
        loss = F.ctc_loss(scores, batch.labels, batch.frames, batch.counts, zero_infinity=True)
        return _distance(middle, heard, mask), loss

    @torch.no_grad()
    def _convolutions(self, audio: Tensor, frames: int) -> Tensor:
        """Return the features of Whisper's convolutions; there is one before the first frame."""
        # Frame n begins at sample FRAME * n; Whisper's is centred there.
        shifted = LEVEL * audio[:, FIELD // 2 - FRAME :]
        shifted = F.pad(shifted, (0, (frames + 1) * FRAME - shifted.shape[1]))
        whisper = self.whisper
        hidden = F.gelu(whisper.conv2(F.gelu(whisper.conv1(self.log_mel(shifted)))))
        return hidden.transpose(1, 2)

    @torch.no_grad()
    def _layers(self, features: Tensor) -> Tensor:
        """Return the output of Whisper's encoder, up to the end of its window."""
        positions = self.whisper.embed_positions.weight
        hidden = features[:, : len(positions)] + positions[: features.shape[1]]
        for layer in self.whisper.layers:
            hidden = layer(hidden, None, None)[0]
        normed: Tensor = self.whisper.layer_norm(hidden)
        return normed


def _distance(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the mean square of the differences within the clips."""
    mask = mask[:, : targets.shape[1]]
    return F.mse_loss(values[:, : targets.shape[1]].float()[mask], targets.float()[mask])


def front_end(encoder: Wav2Vec2FeatureEncoder, audio: Tensor) -> Tensor:
    """Compute transformers' convolutions as matrix products, which are faster in training.

    Args:
        encoder: A front end with layer norm.
        audio: Samples (batch, samples).

    Returns:
        (batch, frames, channels).
    """
    hidden = audio[..., None]
    for layer in encoder.conv_layers:
        convolution = layer.conv
        frames = hidden.unfold(1, convolution.kernel_size[0], convolution.stride[0]).flatten(2)
        product = F.linear(frames, convolution.weight.flatten(1), convolution.bias)
        hidden = layer.activation(layer.layer_norm(product))
    return hidden


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
    audio = torch.zeros(len(windows), longest)
    for row, window in zip(audio, windows, strict=True):
        samples = torch.from_numpy(window.audio)
        variance, mean = torch.var_mean(samples, correction=0)
        row[: len(samples)] = (samples - mean) / torch.sqrt(variance + 1e-7)
    labels = [checkpoint.ctc_labels(window.letters) for window in windows]
    width = max(map(len, labels))
    return Batch(
        audio=audio,
        frames=torch.tensor([(len(window.audio) - FIELD) // FRAME + 1 for window in windows]),
        labels=torch.tensor([row + [0] * (width - len(row)) for row in labels]),
        counts=torch.tensor([len(row) for row in labels]),
    )


def train(worker: int, workers: int, steps: int, work: Path, output: Path) -> None:
    """Train in one of the workers; the first one saves and reports."""
    whisper = checkpoint.trained_encoder()
    model = checkpoint.initial_ctc(whisper)
    # PyTorch's fused attention takes half as long again on a CPU in bfloat16.
    model.set_attn_implementation("eager")
    trainee, batches = Trainee(model, whisper), Batches(work, worker, workers)
    trainer, state = Trainer(trainee, workers), work / "ctc-state.pt"
    if state.exists():
        trainer.restore(state)
    while trainer.step < steps:
        started = time.monotonic()
        losses = make_step(trainee, trainer, batches, steps)
        trainer.seconds += time.monotonic() - started
        if worker:
            continue
        if trainer.step % LOG_EVERY == 0:
            figures = (trainer.step, steps, *losses, trainer.seconds)
            log.info("step %d of %d: distance %.3f, words %.3f, %.0f s", *figures)
        if trainer.step % SAVE_EVERY == 0 or trainer.step == steps:
            trainer.save(state)
        if trainer.step == steps or (
            trainer.step > IMITATION and trainer.step % SNAPSHOT_EVERY == 0
        ):
            checkpoint.export_ctc(model, output / "ctc")
            log.info("word error rate: %.1f %%", measure.ctc_short(output))


def make_step(
    trainee: Trainee, trainer: Trainer, batches: Batches, steps: int
) -> tuple[float, float]:
    """Train on one batch; return the distance from Whisper, and the CTC loss."""
    done, left = trainer.step - IMITATION, steps - IMITATION
    if done < 0:
        distance, words = trainee(batches.draw(trainer.step, FIRST), words=False)
        loss, rate = distance, learning_rate(trainer.step, IMITATION, IMITATION_RATE)
    else:
        phase = next(phase for phase in PHASES if done < phase.until * left)
        distance, words = trainee(batches.draw(trainer.step, phase), words=True)
        loss, rate = words + phase.whisper * distance, learning_rate(done, left, PEAK_RATE)
    trainer.update(loss, rate)
    return distance.item(), words.item()


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
