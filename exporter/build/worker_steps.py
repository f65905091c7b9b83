"""The heavy steps of a build, each run in a worker process."""

from pathlib import Path
from typing import Any

import numpy as np

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import BuildError, DataError
from exporter.families import FAMILIES, family_name
from exporter.families.transcript import Sound
from exporter.formats import audio
from exporter.quantization.plan import QuantizationPlan
from exporter.recipe import Decoding
from exporter.runtime.load import load
from exporter.system.progress import Progress
from exporter.targets import TARGETS
from exporter.targets.base import Job

_NOISE_TOKENS = 16


def build_target(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Build one target into a staged folder.

    Args:
        request: Checkpoint, kind, options, plan and folder, as `build.pipeline` sends them.
        progress: Receives the current step.

    Returns:
        A `BuildResult` as plain data.
    """
    checkpoint = open_checkpoint(request["checkpoint"], allow_pickle=request["allow_pickle"])
    target = TARGETS[request["kind"]]
    job = Job(
        checkpoint=checkpoint,
        family=FAMILIES[family_name(checkpoint.config)],
        options=target.Options.model_validate(request["options"]),
        plan=QuantizationPlan.from_data(request["quantization"]),
        folder=Path(request["folder"]),
        progress=progress,
        fresh=request["fresh"],
    )
    return target.build(job).model_dump(mode="json")


def smoke_test(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Reload a sealed artifact and decode one recording, or a second of noise without one.

    Args:
        request: Folder, decoding and clip, as `build.pipeline` sends them. A clip that cannot be
            read any more counts as none.
        progress: Receives the current step.

    Returns:
        The `text`.

    Raises:
        BuildError: The text of a recording is empty.
    """
    progress("decoding one clip", None)
    recogniser = load(Path(request["folder"]), trust=True)  # it was just built here
    decoding = Decoding.model_validate(request["decoding"])
    samples = _clip(request["clip"], recogniser.sampling_rate)
    if samples is None:  # noise shows only crashes: a few tokens are enough
        recogniser.family.limit_tokens(recogniser.model, _NOISE_TOKENS)
        noise = np.random.default_rng(0).normal(0, 0.01, recogniser.sampling_rate)
        return {"text": recogniser.decode([noise.astype(np.float32)], decoding)[0].text}
    text = recogniser.decode([samples], decoding)[0].text
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
