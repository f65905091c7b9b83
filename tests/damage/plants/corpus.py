"""Damage in what an artifact is judged by: clips, their texts, the original."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from safetensors.torch import load_file, save_file

from tests.damage.grounds import GROUNDS, RATE
from tests.damage.planting import Change, Registry
from tests.damage.plants.scales import quantized
from tests.damage.plants.weights import make_stale, noisy
from tests.damage.tensors import tensors_of

PLANTS = Registry()
Rows = list[dict[str, Any]]


def rows(change: Callable[[Rows], Rows]) -> Change:
    """Return a change of the manifest of clips."""

    def changed(folder: Path) -> None:
        path = folder / "manifest.jsonl"
        listed = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps(row) for row in change(listed)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return changed


def _shuffled(listed: Rows) -> Rows:
    """Every text belongs to another clip."""
    texts = [row["text"] for row in listed]
    return [{**row, "text": text} for row, text in zip(listed, texts[7:] + texts[:7], strict=True)]


def _half_shuffled(listed: Rows) -> Rows:
    half = len(listed) // 2
    return [*_shuffled(listed[:half]), *listed[half:]]


def _empty(listed: Rows) -> Rows:
    return [{**row, "text": "" if index % 3 else row["text"]} for index, row in enumerate(listed)]


def _one_text(listed: Rows) -> Rows:
    return [{**row, "text": listed[0]["text"]} for row in listed]


def _uninformative(listed: Rows) -> Rows:
    """Texts of another language."""
    return [{**row, "text": "das ist ein ganz anderer satz"} for row in listed]


def _repeated(times: int, first: int) -> Change:
    """A few clips many times under other names."""

    def change(folder: Path) -> None:
        path = folder / "manifest.jsonl"
        listed = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][
            :first
        ]
        lines = []
        for number in range(times):
            for row in listed:
                name = f"copy-{number}-{row['audio']}"
                shutil.copyfile(folder / row["audio"], folder / name)
                lines.append(json.dumps({**row, "audio": name}))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def _sounds(change: Callable[[Any], Any]) -> Change:
    """Change the samples of every clip."""

    def changed(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.suffix in (".wav", ".flac"):
                samples, _ = soundfile.read(path, dtype="float32")
                soundfile.write(path, np.clip(change(samples), -1, 1), RATE)

    return changed


def _stale_original(_folder: Path) -> None:
    make_stale(GROUNDS["tiny"])


def _alike(folder: Path) -> None:
    """Weights with noise, and an original given by hand that has the same noise."""
    original = GROUNDS["tiny"].checkpoint
    other = original.with_name("noisy")
    shutil.copytree(original, other, dirs_exist_ok=True)
    floats = load_file(other / "model.safetensors")
    with tensors_of(folder) as tensors:
        noisy(tensors, 0.05, "layers")  # not the head, which is tied in the original
        for module in quantized(tensors):
            if f"{module}.weight" in floats:
                scale = tensors[f"{module}.scale"][:, None]
                floats[f"{module}.weight"] = tensors[f"{module}.weight"].float() * scale
    save_file(floats, other / "model.safetensors", {"format": "pt"})


add = PLANTS.add
add(
    "corpus-texts-shuffled",
    "demo/onnx-int8",
    "severe",
    "[original]|true texts|own WER|original's WER",
    data=rows(_shuffled),
)
add(
    "corpus-texts-half-shuffled",
    "demo/torch-int8",
    "medium",
    "[original]|true texts|own WER|original's WER",
    data=rows(_half_shuffled),
)
add(
    "corpus-texts-empty",
    "demo/onnx-int8",
    "medium",
    "empty texts|no text|without text|texts are empty",
    data=rows(_empty),
)
add(
    "corpus-one-text",
    "demo/torch-int8",
    "severe",
    "[original]|true texts|own WER|original's WER",
    data=rows(_one_text),
)
add(
    "corpus-other-language",
    "demo/onnx-int8",
    "severe",
    "[original]|true texts|own WER|original's WER|language",
    data=rows(_uninformative),
)
add("corpus-repeated", "demo/torch-int8", "medium", "clips|distinct", data=_repeated(25, 3))
add("corpus-repeated-often", "tiny/onnx-int8", "medium", "clips|distinct", data=_repeated(40, 2))
add(
    "corpus-silent",
    "demo/onnx-int8",
    "severe",
    "[original]|true texts|own WER|original's WER|silen",
    data=_sounds(lambda s: s * 0),
)
add(
    "corpus-too-fast",
    "demo/torch-int8",
    "severe",
    "[original]|true texts|own WER|original's WER",
    data=_sounds(lambda s: s[::2]),
)
add(
    "reference-of-another-seed",
    "tiny/onnx-int8",
    "severe",
    "another original|not the checkpoint|was built from|checkpoint",
    _stale_original,
    reference="grounds/tiny/stale",
)
add(
    "reference-damaged-alike",
    "tiny/torch-int8",
    "severe",
    "another original|not the checkpoint|was built from|checkpoint",
    _alike,
    reference="grounds/tiny/noisy",
)
