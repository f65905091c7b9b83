"""What the doctor's tests share: how to break one thing in a folder, and what is found there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from exporter import doctor

Change = Callable[[Path], object]
Copy = Callable[[Path], Path]
ENCODER, MERGED = "encoder_model.onnx", "decoder_model_merged.onnx"
FIRST, PAST = "decoder_model.onnx", "decoder_with_past_model.onnx"
CONFIG, GENERATION, EXTRACTOR = "config.json", "generation_config.json", "preprocessor_config.json"


def findings(folder: Path) -> list[tuple[str, str, str]]:
    """Level, check and place of all that is found."""
    diagnosis = doctor.examine(str(folder))
    return [(finding.level, check, finding.where) for check, finding in diagnosis.found]


def changed(name: str, **values: Any) -> Change:
    """Change keys of a JSON file; None takes one out."""

    def change(folder: Path) -> None:
        told = json.loads((folder / name).read_text()) | values
        kept = {key: value for key, value in told.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def graph(name: str, change: Callable[[onnx.ModelProto], object]) -> Change:
    """Change a graph."""

    def apply(folder: Path) -> None:
        model = onnx.load(folder / name)
        change(model)
        (folder / name).write_bytes(model.SerializeToString())

    return apply


def without(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change
