"""Recordings on disk with a manifest."""

import json
import os
from pathlib import Path

import numpy as np
import soundfile


def write_clips(folder: Path, count: int, text: str = "red green blue") -> Path:
    """Recordings of 100 to 400 ms with a manifest; ten of them differ."""
    folder.mkdir()
    source = np.random.default_rng(0)
    for number in range(min(count, 10)):
        samples = source.normal(0, 0.1, 1600 + 500 * number)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
    for number in range(10, count):
        os.link(folder / f"{number % 10}.wav", folder / f"{number}.wav")
    rows = [json.dumps({"audio": f"{number}.wav", "text": text}) for number in range(count)]
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    return folder
