"""Open an artifact, or an original checkpoint: `exporter.load` and `exporter.load_original`.

Imports torch, and whatever else could run code, only after an artifact has been admitted.
"""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

from exporter import recipe
from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.store import require_same
from exporter.artifact.trust import verify_and_authorize
from exporter.errors import IntegrityError, MachineError, RecipeError
from exporter.hub import pull
from exporter.recipe import Decoding
from exporter.runtime.quiet import no_progress_bars, quiet_libraries
from exporter.runtime.recogniser import Recogniser
from exporter.system.accelerators import DEVICES, require_device
from exporter.system.hardware import describe, require_features
from exporter.system.progress import Progress, silent


def load(
    path: Path | str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    trust: bool = False,
    progress: Progress = silent,
) -> Recogniser:
    """Verify an artifact's bytes and open it.

    Example:
        >>> recogniser = exporter.load("artifacts/whisper-demo-int8/onnx-int8", threads=4)
        >>> print(recogniser.transcribe("speech.flac"))

    Args:
        path: An artifact's folder, or `ORG/NAME` or `ORG/NAME@REVISION` of the Hub, which is
            pulled into this machine's cache first.
        device: Where it runs; "cpu" is the only one so far.
        threads: How many threads it may use, in this whole process. By default those that the
            artifact was compiled for, else one for each core.
        trust: Run the artifact's native code though it was not built on this machine.
        progress: Called with what is being done and the fraction that is done, if known.

    Returns:
        A `Recogniser`, whose `transcribe` takes audio in many forms.

    Raises:
        IntegrityError: The bytes are not what the manifest promises, or there is no artifact.
        TrustError: It holds native code from elsewhere, and `trust` is False.
        MachineError: This machine lacks the device, a CPU feature or a package.
        HubError: The Hub does not have it or cannot be reached.
        RecipeError: An argument has a value that it cannot have.
    """
    _require_usable(device, threads)
    folder = pull.locate(path, progress, trust=trust)
    manifest = verify_and_authorize(folder, trust=trust)
    needed = require_device(manifest.needs.device, str(folder))
    require_features(manifest.needs.cpu_features, str(folder))
    _require_packages(manifest)
    from exporter.families import FAMILIES
    from exporter.targets import TARGETS

    if manifest.family not in FAMILIES or manifest.kind not in TARGETS:
        msg = f"{folder}: a newer exporter built this {manifest.kind} of {manifest.family}: update"
        raise IntegrityError(msg)
    family, target = FAMILIES[manifest.family], TARGETS[manifest.kind]
    threads = _set_threads(threads or manifest.options.get("threads"))
    with quiet_libraries():
        model = target.load(folder, manifest, family, threads, needed)
        processor, sealed = family.processor(folder), recipe.read(folder / RECIPE)
    require_same(folder, manifest)  # else parts of two artifacts were put together
    return Recogniser(model, processor, family, sealed.decoding, manifest)


def load_original(
    source: Path | str,
    base: Path = Path(),
    *,
    device: str = "cpu",
    threads: int | None = None,
    decoding: Decoding | None = None,
    allow_pickle: bool = False,
) -> Recogniser:
    """Open a checkpoint in float32, as transformers runs it: the reference for every comparison.

    Args:
        source: A checkpoint's folder, relative to `base`, or its Hub id.
        base: The folder that `source` is relative to.
        device: Where it runs; "cpu" is the only one so far.
        threads: How many threads it may use, in this whole process; by default one for each core.
        decoding: The options where `transcribe` is given no other; by default each option's own.
        allow_pickle: Read torch's own files where there are no safetensors.

    Returns:
        A `Recogniser`, like an artifact's.

    Raises:
        CheckpointError: It is missing, damaged, incomplete or of a family that is not known.
        MachineError: This machine lacks the device.
        HubError: The Hub does not have it or cannot be reached.
        RecipeError: An argument has a value that it cannot have.
    """
    _require_usable(device, threads)
    from exporter.checkpoint.checkpoint import open_checkpoint
    from exporter.families import FAMILIES, family_name

    checkpoint = open_checkpoint(str(source), base, allow_pickle=allow_pickle)
    family = FAMILIES[family_name(checkpoint.config)]
    _set_threads(threads)
    # A plain folder takes transformers' own road: a mistake of ours in reading would show.
    state = None if checkpoint.plain else checkpoint.stored_state()
    with checkpoint.gathered() as folder, quiet_libraries(), no_progress_bars():
        model = family.open_original(folder, state)
        processor = family.processor(folder)
    return Recogniser(model, processor, family, decoding or Decoding())


def _require_usable(device: str, threads: int | None) -> None:
    """Refuse a device that is not offered, and a number of threads that is none."""
    if str(device) not in DEVICES:
        offered = " or ".join(map(repr, DEVICES))
        msg = f"device={str(device)[:40]!r}: artifacts run on {offered} so far"
        raise MachineError(msg)
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        msg = f"threads={threads!r:.40}: give a whole number of at least 1, or leave it out"
        raise RecipeError(msg)


def _set_threads(threads: int | None) -> int:
    import torch

    chosen = threads or describe().cores
    torch.set_num_threads(chosen)
    return chosen


def _require_packages(manifest: Manifest) -> None:
    """Refuse where a needed package is missing, or where two wheels share one folder."""
    names = {(dist.name or "").lower() for dist in distributions()}
    for package in manifest.needs.packages:
        found = sorted(name for name in names if name == package or name == f"{package}-gpu")
        if not found:
            # What to install is not left to a manifest.
            msg = f"this artifact needs {package!r:.60}, which is not here: install exporter again"
            raise MachineError(msg)
        if len(found) > 1:
            msg = (
                f"{' and '.join(found)} are both installed and overwrite each other.\n"
                f"Fix it: pip uninstall -y {' '.join(found)} && pip install {found[-1]}"
            )
            raise MachineError(msg)
