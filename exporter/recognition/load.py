"""Open an artifact, or an original checkpoint: `exporter.load` and `exporter.load_original`.

Torch, and whatever else could run code, is imported only after an artifact is verified.
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
from exporter.recognition.foreign import foreign_files, sealed_configs
from exporter.recognition.quiet import no_progress_bars, quiet_libraries
from exporter.recognition.recogniser import Recogniser
from exporter.system.accelerators import DEVICES, require_device
from exporter.system.hardware import describe, require_features, thread_limit
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
        device: The device it runs on; "cpu" is the only one so far.
        threads: Number of CPU threads of the whole process. By default the number that the
            artifact was compiled for, else one per core.
        trust: Run the artifact's native code even if it was not built on this machine.
        progress: Called with the current activity and the fraction done, if known.

    Returns:
        A `Recogniser`, whose `transcribe` takes audio in many forms.

    Raises:
        IntegrityError: The bytes do not match the manifest, or there is no artifact.
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
    threads = _set_threads(threads or manifest.threads)
    with quiet_libraries(), foreign_files(manifest, folder), sealed_configs():
        model = target.load(folder, manifest, family, threads, needed)
        processor, sealed = family.processor(folder), recipe.read(folder / RECIPE)
    require_same(folder, manifest)  # fails if the artifact was replaced meanwhile
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
    """Open a checkpoint in float32 in transformers: the reference for every comparison.

    Args:
        source: A checkpoint's folder, relative to `base`, or its Hub id.
        base: The folder that `source` is relative to.
        device: The device it runs on; "cpu" is the only one so far.
        threads: Number of CPU threads of the whole process; by default one per core.
        decoding: Default options of `transcribe`; None: each option's own default. Its `language`
            is that of a checkpoint of many.
        allow_pickle: Read torch's pickled files if there are no safetensors.

    Returns:
        A `Recogniser`, like an artifact's.

    Raises:
        CheckpointError: It is missing, damaged, incomplete or of an unknown family.
        MachineError: This machine lacks the device.
        HubError: The Hub does not have it or cannot be reached.
        RecipeError: An argument has a value that it cannot have.
    """
    _require_usable(device, threads)
    from exporter.checkpoint.checkpoint import open_checkpoint
    from exporter.checkpoint.compatibility import check_fit
    from exporter.families import FAMILIES, family_name

    decoding = decoding or Decoding()
    checkpoint = open_checkpoint(
        str(source), base, allow_pickle=allow_pickle, language=decoding.language
    )
    family = FAMILIES[family_name(checkpoint.config)]
    # transformers would initialize what is missing at random, however large the config says it is.
    check_fit(checkpoint, family.skeleton(checkpoint.config), family.TIED)
    _set_threads(threads)
    # transformers reads a plain folder itself, so that an error in our reader would show.
    state = None if checkpoint.plain else checkpoint.stored_state()
    with checkpoint.gathered() as folder, quiet_libraries(), no_progress_bars():
        model = family.open_original(checkpoint.folder if state is None else folder, state)
        processor = family.processor(folder)
    return Recogniser(model, processor, family, decoding)


def _require_usable(device: str, threads: int | None) -> None:
    """Check that the device is available and the number of threads is positive."""
    if str(device) not in DEVICES:
        offered = " or ".join(map(repr, DEVICES))
        msg = f"device={str(device)[:40]!r}: artifacts run on {offered} so far"
        raise MachineError(msg)
    most = thread_limit()
    if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= most):
        msg = f"threads={threads!r:.40}: give a whole number from 1 to {most}, or leave it out"
        raise RecipeError(msg)


def _set_threads(threads: int | None) -> int:
    import torch

    chosen = threads or describe().cores
    if chosen > thread_limit():
        msg = (
            f"it was compiled for {chosen} threads, and this machine's {describe().cores} cores "
            f"carry {thread_limit()} at most: build it again with fewer"
        )
        raise MachineError(msg)
    torch.set_num_threads(chosen)
    return chosen


def _require_packages(manifest: Manifest) -> None:
    """Check that each required package is installed, and by only one wheel."""
    names = {(dist.name or "").lower() for dist in distributions()}
    for package in manifest.needs.packages:
        installed = sorted(name for name in names if name == package or name == f"{package}-gpu")
        if not installed:
            # The message takes no install command from a manifest, which is not trusted.
            msg = f"this artifact needs {package!r:.60}, which is not here: install exporter again"
            raise MachineError(msg)
        if len(installed) > 1:
            msg = (
                f"{' and '.join(installed)} are both installed and overwrite each other.\n"
                f"Fix it: pip uninstall -y {' '.join(installed)} && pip install {installed[-1]}"
            )
            raise MachineError(msg)
