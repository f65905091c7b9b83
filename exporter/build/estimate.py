"""Estimate the files, memory, disk and time of a build, and compare them with this machine.

Sizes come from the targets, which lay out their files without reading weights; memory, time and
scratch space come from each target's measured constants. A build that cannot fit is refused with
the reason, instead of being killed by the kernel.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from exporter.artifact.manifest import Predicted
from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.compatibility import check_fit
from exporter.errors import MachineError, RecipeError, ResourceError
from exporter.families import FAMILIES, family_name
from exporter.families.base import Family
from exporter.formats.tensor_io import FLOATS
from exporter.quantization.plan import QuantizationPlan, plan_of, shared_tables
from exporter.quantization.resolve import default_quantization
from exporter.system import accelerators, hardware
from exporter.system.progress import shown_bytes
from exporter.targets import TARGETS, default_scheme, facts_of
from exporter.targets.cost import MEASURED_ON, Work
from exporter.targets.options import TargetOptions

Row = dict[str, Any]
# Rough costs of running an original in float32: of importing and opening it, and of one clip of a
# few seconds per parameter, by two threads.
_ORIGINAL_BYTES, _ORIGINAL_RATIO, _ORIGINAL_S = 600 << 20, 1.3, 8.0
_CLIP_S = 1.2e-8


@dataclass(frozen=True)
class Prediction:
    """The estimated files of one artifact, and the cost of building and reloading it.

    Attributes:
        files: Sizes in bytes by name.
        peak_rss_bytes: Peak memory of the build.
        reload_rss_bytes: Peak memory of the first reload.
        scratch_bytes: Disk space that the build frees at its end.
        seconds: Time of the build.
        reload_seconds: Time of the first reload.
        device_memory_bytes: Memory of a card that the loaded artifact takes; 0 without one.
    """

    files: Mapping[str, int]
    peak_rss_bytes: int
    reload_rss_bytes: int
    scratch_bytes: int
    seconds: float
    reload_seconds: float
    device_memory_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all files in the manifest."""
        return sum(self.files.values())

    @property
    def disk_bytes(self) -> int:
        """Peak bytes on disk during the build."""
        return self.size_bytes + self.scratch_bytes

    def for_manifest(self) -> Predicted:
        """Return the part that a manifest records beside the measured costs."""
        return Predicted(
            size_bytes=self.size_bytes,
            peak_rss_bytes=self.peak_rss_bytes,
            reload_rss_bytes=self.reload_rss_bytes,
            seconds=round(self.seconds, 1),
        )

    def as_row(self) -> Row:
        """Return plain data for JSON."""
        files = sorted(self.files.items())
        return {
            "size_bytes": self.size_bytes,
            "peak_rss_bytes": self.peak_rss_bytes,
            "reload_rss_bytes": self.reload_rss_bytes,
            "disk_bytes": self.disk_bytes,
            "device_memory_bytes": self.device_memory_bytes,
            "seconds": round(self.seconds, 1),
            "reload_seconds": round(self.reload_seconds, 1),
            "files": [{"path": path, "size_bytes": size} for path, size in files],
        }


@dataclass(frozen=True)
class Step:
    """One artifact to build, the bytes of the one it replaces, and what this machine lacks."""

    name: str
    prediction: Prediction
    replaces_bytes: int = 0
    blocker: MachineError | None = None


@dataclass(frozen=True)
class Resources:
    """Available memory, and free disk space at `place`."""

    memory_bytes: int
    disk_bytes: int
    place: Path

    def as_row(self) -> Row:
        """Return plain data for JSON, with the machine that the estimates were measured on."""
        return {
            "memory_available_bytes": self.memory_bytes,
            "disk_free_bytes": self.disk_bytes,
            "place": str(self.place),
            "figures_measured_on": MEASURED_ON,
        }


def room_at(place: Path) -> Resources:
    """Return the memory and disk space that are free now; `place` need not exist."""
    return Resources(hardware.memory_available_bytes(), hardware.disk_free_bytes(place), place)


def predict(
    kind: str,
    options: TargetOptions,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    carried: Mapping[str, int],
) -> Prediction:
    """Estimate one artifact from shapes and types.

    Args:
        kind: The target's kind.
        options: The target's options.
        plan: The scheme of each module.
        model: The model, whose weights need no values.
        checkpoint: The checkpoint; its weights may be on the Hub.
        carried: Sizes of files that are copied, unless the target writes one of that name.

    Returns:
        Files, memory, disk space and time.
    """
    family = FAMILIES[family_name(checkpoint.config)]
    files = TARGETS[kind].layout(options, plan, model, checkpoint, family)
    trials = TARGETS[kind].num_trials(options, plan, model, checkpoint, family)
    work = work_of(checkpoint, sum(files.values()), trials)
    cost = facts_of(kind).COSTS[options.device]
    return Prediction(
        files={**carried, **files},
        peak_rss_bytes=cost.peak_rss_bytes(work),
        reload_rss_bytes=cost.reload_rss_bytes(work),
        scratch_bytes=cost.scratch_bytes(work),
        seconds=cost.seconds(work),
        reload_seconds=cost.reload_seconds(work),
        device_memory_bytes=TARGETS[kind].device_memory_bytes(
            options, plan, model, checkpoint, family
        ),
    )


def with_calibration(
    prediction: Prediction, checkpoint: Checkpoint, clips: int, *, runs: bool
) -> Prediction:
    """Add to an estimate what calibrating ranges costs: the float32 original runs on clips.

    Args:
        prediction: The estimate without it.
        checkpoint: The checkpoint.
        clips: The number of recordings.
        runs: Whether it runs for this artifact first: later ones have its result.
    """
    memory = _ORIGINAL_BYTES + round(_ORIGINAL_RATIO * 4 * checkpoint.parameters)
    seconds = _ORIGINAL_S + clips * checkpoint.parameters * _CLIP_S if runs else 0.0
    return replace(
        prediction,
        peak_rss_bytes=max(prediction.peak_rss_bytes, memory),
        seconds=prediction.seconds + seconds,
    )


def carried_bytes(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the sizes of the checkpoint's files that every artifact includes, by name."""
    written = {name: len(data) for name, data in checkpoint.converted.items()}
    small = {name: path.stat().st_size for name, path in checkpoint.companions.items()}
    return {**small, **written, **checkpoint.carried_sizes}


def resource_errors(
    steps: Sequence[Step], room: Resources, fetch_bytes: int = 0
) -> Iterator[ResourceError | MachineError | None]:
    """Yield the reason why each artifact cannot be built here; None if it can.

    A replaced artifact stays until its successor is published, so both need space at once. A
    download needs space too, often on the same disk.

    Args:
        steps: The artifacts, built in this order.
        room: The free memory and disk space.
        fetch_bytes: Bytes of weights to download first.

    Yields:
        An error, which is not raised, or None, for each step.
    """
    cache = _hub_cache() if fetch_bytes else None
    held = fetch_bytes if cache and hardware.same_disk(cache, room.place) else 0
    fetching = _fetch_shortage(fetch_bytes, cache) if cache else None
    for step in steps:
        disk = held + step.prediction.disk_bytes
        here = _card_shortage(step) or _memory_shortage(step, room)
        here = here or _disk_shortage(step, disk, room)
        yield step.blocker or fetching or here
        held += step.prediction.size_bytes - step.replaces_bytes


def require_room(steps: Sequence[Step], room: Resources, fetch_bytes: int = 0) -> None:
    """Raise the first error that `resource_errors` yields, if any.

    Raises:
        ResourceError: Memory or disk space is too small.
        MachineError: This machine lacks what a target needs.
    """
    for shortage in resource_errors(steps, room, fetch_bytes):
        if shortage is not None:
            raise shortage


def verdict(shortage: ResourceError | MachineError | RecipeError | None) -> Row:
    """Return the last columns of a plan's row: if the build fits this machine, or why not."""
    reason = str(shortage).splitlines()[0] if shortage else None
    return {"fits": shortage is None, "why_not": reason}


def of_checkpoint(checkpoint: Checkpoint, room: Resources) -> list[Row]:
    """Estimate each kind of target with its default options, as if built alone.

    Args:
        checkpoint: The checkpoint; its weights may be on the Hub.
        room: The free memory and disk space.

    Returns:
        A row for each kind.

    Raises:
        CheckpointError: Tensors do not fit the config.
    """
    family = FAMILIES[family_name(checkpoint.config)]
    model = family.skeleton(checkpoint.config)
    check_fit(checkpoint, model, family.TIED)
    shared = shared_tables(family.TIED, checkpoint.tensors)
    rows = []
    for kind in TARGETS:
        matches = default_quantization(model, family.HEAD, shared, default_scheme(kind))
        plan = plan_of(matches, model)
        rows.append(_default_row(kind, plan, model, checkpoint, family, room))
    return rows


def _default_row(
    kind: str,
    plan: QuantizationPlan,
    model: nn.Module,
    checkpoint: Checkpoint,
    family: Family,
    room: Resources,
) -> Row:
    target = TARGETS[kind]
    try:
        options = target.Options()
    except MachineError as error:  # a default depends on the machine, which has no suitable value
        return {"kind": kind, **verdict(error)}
    try:
        target.check(options, plan, model, checkpoint, family)
        blocker = None
    except MachineError as error:
        blocker = error
    except RecipeError as error:  # the kind has no artifact of such a model
        return {"kind": kind, **verdict(error)}
    prediction = predict(kind, options, plan, model, checkpoint, carried_bytes(checkpoint))
    (shortage,) = resource_errors([Step(kind, prediction, blocker=blocker)], room)
    head = {"kind": kind, "options": options.model_dump(mode="json")}
    return {**head, **prediction.as_row(), **verdict(shortage)}


def work_of(checkpoint: Checkpoint, written_bytes: int, trials: int = 0) -> Work:
    """Return the amounts that a target's cost depends on: modules, bytes and trials."""
    sizes = [FLOATS[i.dtype].itemsize * i.elements for i in checkpoint.tensors.values()]
    modules = {name.rpartition(".")[0] for name in checkpoint.tensors}
    return Work(len(modules), max(sizes, default=0), sum(sizes), written_bytes, trials)


def _memory_shortage(step: Step, room: Resources) -> ResourceError | None:
    build, reload = step.prediction.peak_rss_bytes, step.prediction.reload_rss_bytes
    if max(build, reload) <= room.memory_bytes:
        return None
    what = "be built" if build >= reload else "be loaded once, which ends its build"
    return ResourceError(
        f"{step.name} needs about {shown_bytes(max(build, reload))} of memory to {what}; "
        f"{shown_bytes(room.memory_bytes)} is available.\n"
        "Stop other programs, raise the container's limit, or leave it out by --target."
    )


def _card_shortage(step: Step) -> MachineError | None:
    """Return the error of a card here that the artifact, which is tried on it, does not fit.

    Without a card there is none: what has to be built on one is refused by its target.
    """
    needed = step.prediction.device_memory_bytes
    cards = accelerators.cards() if needed else ()
    if not cards or needed <= cards[0].memory_bytes:
        return None
    return MachineError(
        f"{step.name} needs about {shown_bytes(needed)} of a GPU's memory; {cards[0].name} has "
        f"{shown_bytes(cards[0].memory_bytes)}.\n"
        "Build it where a larger card is, or for fewer rows or with int8."
    )


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _fetch_shortage(needed: int, cache: Path) -> ResourceError | None:
    free = hardware.disk_free_bytes(cache)
    if needed <= free:
        return None
    return ResourceError(
        f"the checkpoint's weights are {shown_bytes(needed)}; {cache} has {shown_bytes(free)} "
        "free.\nFree some, or set HF_HOME to a place with more."
    )


def _disk_shortage(step: Step, needed: int, room: Resources) -> ResourceError | None:
    if needed <= room.disk_bytes:
        return None
    return ResourceError(
        f"{step.name} needs {shown_bytes(needed)} of disk, with what is built before it; "
        f"{room.place} has {shown_bytes(room.disk_bytes)} free.\n"
        "Free some, or choose another --output."
    )
