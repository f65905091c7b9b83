"""The recordings and probabilities on which the detector is compared with faster-whisper."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).with_name("golden.json")
CLIPS = ("long-001", "long-004", "short-010")
OPTIONS: tuple[dict[str, float], ...] = (
    {},
    {"max_speech_s": 10.0, "min_silence_s": 0.16},
    {"threshold": 0.7, "min_speech_s": 0.25, "min_silence_s": 0.5, "speech_pad_s": 0.03},
    {"threshold": 0.1, "max_speech_s": 3.0, "min_silence_s": 0.1, "speech_pad_s": 0.2},
)
WALKS = 40

Array = NDArray[np.float32]


def recordings() -> dict[str, Array]:
    """Speech, the same far away and after a pause, noise, silence, and moments."""
    clips = ROOT / "recipes/demo/clips"
    found = {name: soundfile.read(clips / f"{name}.flac", dtype="float32")[0] for name in CLIPS}
    source = np.random.default_rng(0)
    noise = source.normal(0, 0.05, 40_000).astype(np.float32)
    speech = found["short-010"]
    return {
        **found,
        "pause": np.concatenate([speech, noise / 50, noise / 50, speech]),
        "far": speech / 100 + 0.002 * source.normal(0, 1, len(speech)).astype(np.float32),
        "noise": noise,
        "silence": np.zeros(20_480, np.float32),
        "moment": noise[:100],
        "frame": speech[8_000:8_512],
    }


def walk(number: int) -> tuple[Array, int]:
    """Return probabilities of frames, as a wandering detector gives them, and samples."""
    source = np.random.default_rng(number)
    frames = int(source.integers(1, 600))
    steps = source.normal(0, (0.05, 0.2, 0.5)[number % 3], frames)
    odds = 3 * np.cumsum(steps)
    probabilities = (1 / (1 + np.exp(-(odds - odds.mean())))).astype(np.float32)
    return probabilities, (frames - 1) * 512 + int(source.integers(0, 512))


def as_theirs(options: dict[str, float]) -> dict[str, Any]:
    """Return options by faster-whisper's names."""
    names = {"threshold": "threshold", "max_speech_s": "max_speech_duration_s"}
    milliseconds = {
        "min_speech_s": "min_speech_duration_ms",
        "min_silence_s": "min_silence_duration_ms",
        "speech_pad_s": "speech_pad_ms",
    }
    return {
        **{names[name]: value for name, value in options.items() if name in names},
        **{
            milliseconds[name]: round(1000 * value)
            for name, value in options.items()
            if name in milliseconds
        },
    }
