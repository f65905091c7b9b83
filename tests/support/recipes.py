"""A recipe on disk."""

import json
from pathlib import Path

import numpy as np
import soundfile

from exporter import recipe
from exporter.recipe import Recipe

RECIPE = """\
name: tiny
checkpoint: {checkpoint}
targets:
  - {{kind: onnx-int8}}
  - {{kind: torch-int8}}
  - {{kind: aoti}}
decoding: {decoding}
data: {{clips: clips}}
gate: {{min_clips: 1, max_wer_increase: 1, max_latency_ratio: 100, max_reference_wer: 1000}}
"""


def write_recipe(folder: Path, checkpoint: Path, decoding: str, more: str = "") -> Recipe:
    source = np.random.default_rng(0)
    (folder / "clips").mkdir()
    rows = []
    for index, seconds in enumerate((0.7, 2.0, 3.1)):
        samples = source.normal(0, 0.1, int(16000 * seconds))
        soundfile.write(folder / "clips" / f"{index}.wav", samples, 16000)
        rows.append(json.dumps({"audio": f"{index}.wav", "text": "red green blue"}))
    (folder / "clips" / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint, decoding=decoding) + more)
    return recipe.read(path)
