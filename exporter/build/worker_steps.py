"""The heavy steps of a build, each run in a worker process."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES, family_name
from exporter.formats import audio
from exporter.quantization.calibration import histogram, observe
from exporter.quantization.plan import QuantizationPlan
from exporter.recipe import Decoding
from exporter.recognition.load import load_original
from exporter.system.build_cache import get_or_build
from exporter.system.hardware import installed_versions
from exporter.system.progress import Progress
from exporter.system.tempdirs import scratch
from exporter.targets import TARGETS
from exporter.targets.base import Job

_PERCENTILE = 99.99  # for the methods that do not need it, so that all share one entry


def build_target(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Build one target into a staged folder.

    Args:
        request: Checkpoint, kind, options, plan and folder, as `build.pipeline` sends them.
        progress: Receives the current step.

    Returns:
        A `BuildResult` as plain data.
    """
    checkpoint = open_checkpoint(
        request["checkpoint"], allow_pickle=request["allow_pickle"], language=request["language"]
    )
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


def calibrate(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Find the ranges of modules' inputs in the float original, or take them from the cache.

    Args:
        request: Checkpoint, decoding, clips, method and modules, as `build.calibration` sends them.
        progress: Receives the current step.

    Returns:
        The `ranges` by module, and `audio_s`, the seconds of audio.

    Raises:
        BuildError: An input of a module is not finite, or a module did not run.
        DataError: A recording cannot be read.
    """
    settings = request["calibration"]
    percentile = settings.get("percentile", _PERCENTILE)
    parts = {name: request[name] for name in ("checkpoint_sha256", "decoding", "modules")}
    parts |= {"clips": settings["sha256"], "percentile": percentile}
    what = f"ranges of {len(request['modules'])} modules, on {settings['clips']} clips"

    def make() -> None:
        found = _ranges(request, percentile, progress)
        path.write_text(json.dumps(found), encoding="utf-8")

    with scratch() as place:
        path = place / "ranges.json"
        makers = (observe, histogram)
        versioned = {**parts, "versions": installed_versions()}
        get_or_build(path, what, versioned, make, makers=makers, fresh=request["fresh"])
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**answer, "ranges": answer["ranges"][settings["method"]]}


def _ranges(request: dict[str, Any], percentile: float, progress: Progress) -> dict[str, Any]:
    """Run the original on every clip, and choose ranges by every method; see `calibrate`."""
    progress("calibration: loading the original", None)
    decoding = Decoding.model_validate(request["decoding"])
    original = load_original(
        request["checkpoint"], decoding=decoding, allow_pickle=request["allow_pickle"]
    )
    clips, audio_s = [Path(clip) for clip in request["clips"]], 0.0

    def runs() -> Iterator[tuple[str, Callable[[], object]]]:
        nonlocal audio_s
        for number, clip in enumerate(clips):
            progress(f"calibration: clip {number + 1} of {len(clips)}", number / len(clips))
            audio_s += audio.duration_s(clip)
            sound = audio.read(clip, original.sampling_rate)
            yield clip.name, partial(original.decode, [sound], decoding)

    found = observe.observe(original.model, request["modules"], runs())
    progress("calibration: choosing ranges", None)
    ranges = {
        method: {name: each.range(method, percentile) for name, each in found.items()}
        for method in histogram.METHODS
    }
    return {"ranges": ranges, "audio_s": audio_s}
