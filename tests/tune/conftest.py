"""A tiny recipe to tune, with clips to judge and others to rank on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

Write = Callable[..., Path]

RECIPE = """\
# Toys.
name: tiny  # small
checkpoint: checkpoint
{shared}targets: {targets}
decoding: {{language: en, task: transcribe}}
{data}"""
DATA = "data: {clips: judging}\ngate: {min_clips: 1, max_wer_increase: 1}\n"
TARGETS = "[{kind: onnx-int8, preset: avx2}, {kind: torch-int8}]"
GROUPS = [
    *("encoder layer 0, self_attn", "encoder layer 0, feed-forward"),
    *("encoder layer 1, self_attn", "encoder layer 1, feed-forward"),
    *("decoder layer 0, self_attn", "decoder layer 0, encoder_attn"),
    "decoder layer 0, feed-forward",
    *("decoder layer 1, self_attn", "decoder layer 1, encoder_attn"),
    *("decoder layer 1, feed-forward", "head"),
]


@pytest.fixture
def write(tmp_path: Path, tiny_whisper: Path) -> Write:
    """Write a recipe with a `quantization`, targets and data."""
    shutil.copytree(tiny_whisper, tmp_path / "checkpoint")
    for seed, name in enumerate(("judging", "calibration")):
        write_clips(tmp_path / name, 3, seed)

    def call(shared: str = "", targets: str = TARGETS, data: str = DATA) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(RECIPE.format(shared=shared, targets=targets, data=data))
        return path

    return call


def write_clips(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    source, rows = np.random.default_rng(seed), []
    for number in range(count):
        samples = source.normal(0, 0.1, 16_000 + 800 * number)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        rows.append(f'{{"audio": "{number}.wav", "text": "red green blue"}}')
    (folder / "manifest.jsonl").write_text("\n".join(rows))
