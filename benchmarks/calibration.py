"""Compare the methods of calibration on the demo, and draw the ranges that they choose.

The demo's encoder is built as torch-int8, dynamic and static by each method, beside a decoder in
float. On the clips that took no part in calibration it tells how far the encoder's output and the
next tokens, with the clip's text forced, are from those of the original.

    python -m benchmarks.calibration --work FOLDER --picture docs/calibration.svg
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from benchmarks.schemes import CALIBRATION, RECIPES, WHISPER, ran, split_clips
from exporter.formats import audio
from exporter.hub.drawing import WIDTH, scale, standalone, svg, text
from exporter.quantization.calibration.histogram import METHODS, Histogram
from exporter.quantization.calibration.observe import observe
from exporter.recognition.load import load

MODULE = "model.encoder.layers.3.fc2"  # after GELU: skewed, with outliers
RATE = 16000
PERCENTILE = 99.99
LINEAR, ALL = "linear modules", "with both convolutions"


@dataclass(frozen=True)
class Clip:
    """What the model is given of a recording."""

    features: Tensor
    tokens: Tensor


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Artifacts go here.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the ranges of a module.")
def main(work: Path, picture: Path | None) -> None:
    """Tell the distances of each method."""
    work.mkdir(parents=True, exist_ok=True)
    calibrating, judging = split_clips(work.resolve())
    folder = RECIPES / "demo" / "whisper"
    processor = WhisperProcessor.from_pretrained(folder)
    original = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    if picture:
        clips = list(read(calibrating, processor))
        runs = [(str(n), lambda clip=clip: outputs(original, clip)) for n, clip in enumerate(clips)]
        picture.write_text(draw(observe(original, [MODULE], runs)[MODULE]), encoding="utf-8")
    clips = list(read(judging, processor))
    wanted = [outputs(original, clip) for clip in clips]
    ways = ["dynamic-int8", *METHODS]
    click.echo(f"| encoder | {LINEAR}: SQNR | KL | {ALL}: SQNR | KL |")
    click.echo("| --- | --- | --- | --- | --- |")
    for way in ways:
        cells = [f"`{way}`"]
        for pattern in ("model.encoder.layers.*", "model.encoder.*"):
            model = load(build(work.resolve(), calibrating, way, pattern)).model
            noise, divergence = distance(wanted, [outputs(model, clip) for clip in clips])
            cells += [f"{noise:.1f} dB", f"{divergence:.1e}"]
        click.echo(f"| {' | '.join(cells)} |")


def read(folder: Path, processor: Any) -> Iterator[Clip]:
    """Yield the short recordings of a folder."""
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["duration"] < processor.feature_extractor.chunk_length:
            samples = audio.whole(audio.read(folder / entry["audio"], RATE))
            features = processor(samples, sampling_rate=RATE, return_tensors="pt").input_features
            labels = processor.tokenizer(" " + entry["text"], return_tensors="pt").input_ids
            yield Clip(features, labels[:, :-1])


def build(work: Path, clips: Path, way: str, pattern: str) -> Path:
    """Build the demo with the encoder quantized one way; return the artifact's folder."""
    name = f"demo-{way}-{'all' if pattern.endswith('encoder.*') else 'linear'}"
    plan: dict[str, Any] = {"default": "float", "modules": {pattern: "dynamic-int8"}}
    if way in METHODS:
        calibration: dict[str, Any] = {"clips": str(clips), "count": CALIBRATION, "method": way}
        if way == "percentile":
            calibration["percentile"] = PERCENTILE
        plan |= {"modules": {pattern: "static-int8"}, "calibration": calibration}
    recipe = {
        "name": name,
        "checkpoint": str(RECIPES / "demo" / "whisper"),
        "quantization": plan,
        "targets": [{"kind": "torch-int8"}],
        "decoding": WHISPER,
    }
    path = work / f"{name}.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(recipe, stream)
    told = ran("exporter", "build", str(path), "--output", str(work / "artifacts"), "--json")
    (artifact,) = json.loads(told)["artifacts"]
    return Path(artifact["path"])


@torch.inference_mode()
def outputs(model: Any, clip: Clip) -> tuple[Tensor, Tensor]:
    """Return the encoder's output, and the log-probabilities of the next tokens."""
    encoded = model.get_encoder()(clip.features)
    logits = model(decoder_input_ids=clip.tokens, encoder_outputs=encoded).logits
    return encoded[0].clone(), logits.log_softmax(-1)


def distance(
    wanted: list[tuple[Tensor, Tensor]], got: list[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Return the ratio of signal to error in decibels, and the mean divergence in nats."""
    pairs = list(zip(wanted, got, strict=True))
    signal = sum(float(w.square().sum()) for (w, _), _ in pairs)
    error = sum(float((w - g).square().sum()) for (w, _), (g, _) in pairs)
    each = [(w.exp() * (w - g)).sum(-1).flatten() for (_, w), (_, g) in pairs]
    return 10 * float(np.log10(signal / error)), float(torch.cat(each).mean())


def draw(histogram: Histogram) -> str:
    """Draw how often a module's inputs have each value, and the range of each method."""
    low, high = min(histogram.low, 0.0), histogram.high
    across = scale(low, high, 92, WIDTH - 16)
    columns = np.linspace(low, high, 120)
    inside = np.searchsorted(columns, (histogram.edges[1:] + histogram.edges[:-1]) / 2)
    counts = np.bincount(inside, histogram.counts, len(columns) + 1)[1 : len(columns)]
    heights = np.log10(np.maximum(counts, 1.0))
    tall, bottom = 110.0, 140.0
    up = scale(0.0, float(heights.max()), 0.0, tall)
    parts = [text(12, 18, f"inputs of {MODULE}: how often, logarithmic", "start")]
    for start, end, height in zip(columns, columns[1:], heights, strict=False):
        left, width = across(start), across(end) - across(start)
        size = f'width="{width:.2f}" height="{up(height):.1f}"'
        parts.append(f'<rect class="value" x="{left:.2f}" y="{bottom - up(height):.1f}" {size}/>')
    parts.append(f'<line class="axis" x1="92" y1="140" x2="{WIDTH - 16}" y2="140"/>')
    for index, method in enumerate(METHODS):
        y = bottom + 20 + 24 * index
        first, last = histogram.range(method, PERCENTILE)
        ends = (across(max(first, low)), across(last))
        parts.append(text(84, y + 4, method, "end"))
        line = f'x1="{ends[0]:.1f}" y1="{y}" x2="{ends[1]:.1f}" y2="{y}"'
        parts.append(f'<line class="range" {line}/>')
        side = (ends[1] - 4, "end") if ends[1] > WIDTH - 60 else (ends[1] + 6, "start")
        shift = -5 if side[1] == "end" else 4
        parts.append(text(side[0], y + shift, f"{last:.3g}", side[1]))
    return standalone(svg(250, "Inputs of a module, and the range of each method", parts))


if __name__ == "__main__":
    main()
