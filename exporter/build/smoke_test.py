"""Decode one recording with a new artifact, with no more imports than its kind needs."""

from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import BuildError, DataError
from exporter.formats import audio
from exporter.recognition.load import load
from exporter.runtime.transcript import Sound
from exporter.system.progress import Progress

_NOISE_TOKENS = 16


def smoke_test(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Reload a sealed artifact and decode one recording, or a second of noise without one.

    Args:
        request: Folder and clip, as `build.pipeline` sends them. A clip that cannot be read any
            more counts as none.
        progress: Receives the current step.

    Returns:
        The `text`.

    Raises:
        BuildError: The text of a recording is empty.
    """
    progress("decoding one clip", None)
    recogniser = load(Path(request["folder"]), trust=True)  # it was just built here
    samples = _clip(request["clip"], recogniser.sampling_rate)
    if samples is None:  # noise shows only crashes: a few tokens are enough
        recogniser.opened.limit_tokens(_NOISE_TOKENS)
        noise = np.random.default_rng(0).normal(0, 0.01, recogniser.sampling_rate)
        return {"text": recogniser.decode([noise.astype(np.float32)])[0].text}
    text = recogniser.decode([samples])[0].text
    if not text:
        msg = f"the artifact gives an empty transcript for {request['clip']}"
        raise BuildError(msg)
    return {"text": text}


def _clip(path: str | None, rate: int) -> Sound | None:
    """Read a clip; an artifact that was built is not lost because the clip was."""
    if path is None:
        return None
    try:
        return audio.read(path, rate)
    except DataError:
        return None
