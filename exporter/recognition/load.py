"""Open an artifact, or an original checkpoint: `exporter.load` and `exporter.load_original`.

Torch, and whatever else could run code, is imported only after an artifact is verified.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact import store
from exporter.artifact import trust as trusted
from exporter.errors import (
    IntegrityError,
    MachineError,
    RecipeError,
    missing_package,
    needing,
)
from exporter.recognition import light
from exporter.recognition.foreign import foreign_files, sealed_configs
from exporter.recognition.model import FamilyModel, Values
from exporter.recognition.quiet import no_progress_bars, quiet_libraries
from exporter.recognition.recogniser import Recogniser
from exporter.runtime.decoding import complete
from exporter.runtime.manifest import RECIPE, SealedManifest
from exporter.system.accelerators import DEVICES, require_device
from exporter.system.hardware import describe, require_features, thread_limit
from exporter.system.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.recipe import Decoding


def load(
    path: Path | str,
    *,
    device: str | None = None,
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
        device: The kind of device to run it on, "cpu" or "cuda", which has to be the one that it
            was built for; by default that one. CUDA_VISIBLE_DEVICES selects the card.
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
    folder = locate(path, progress, trust=trust)
    with trusted.opening(folder, trust=trust, meanwhile=light.opens) as manifest:
        _require_built_for(device, folder, manifest)
        _require_machine(folder, manifest)
        if not light.opens(manifest):
            opened = _open_whole(folder, manifest, threads)
            return Recogniser(opened, _decoding(folder, manifest), lambda: opened, manifest)
        chosen = _threads(threads or manifest.threads)
        with foreign_files(manifest, folder), sealed_configs():
            model = light.open_model(folder, manifest, chosen)
        decoding = _decoding(folder, manifest)
    return Recogniser(model, decoding, partial(_reopened, folder, manifest, chosen), manifest)


def locate(path: Path | str, progress: Progress = silent, *, trust: bool = False) -> Path:
    """Return the folder of an artifact that is named by its folder or by its Hub id.

    `path` is a Hub id if neither it nor its first component exists on disk.

    Args:
        path: The folder, or the id as in `exporter.hub.pull.fetch_to_cache`.
        progress: Receives attempts and bytes.
        trust: Download code that was not built here.

    Raises:
        ExporterError: The errors of `fetch_to_cache`.
    """
    place = Path(path)
    if place.exists() or any(Path(first).exists() for first in place.parts[:1]):
        return place
    with needing("hub"):
        from exporter.hub import pull
        from exporter.hub.client import hub_id

        return (
            place
            if hub_id(str(path)) is None
            else pull.fetch_to_cache(str(path), progress, trust=trust)
        )


def _reopened(folder: Path, manifest: SealedManifest, threads: int) -> FamilyModel:
    """Open an artifact once more, by its target, if it is still the same."""
    store.require_same(folder, manifest)
    store.verify_sealed(folder)
    return _open_whole(folder, manifest, threads)


@needing("build")
def _open_whole(folder: Path, manifest: SealedManifest, threads: int | None) -> FamilyModel:
    """Open an artifact, whose bytes are verified and whose code may run, by its target."""
    from exporter.families import FAMILIES
    from exporter.targets import TARGETS

    if manifest.family not in FAMILIES or manifest.kind not in TARGETS:
        msg = f"{folder}: a newer exporter built this {manifest.kind} of {manifest.family}: update"
        raise IntegrityError(msg)
    family, target = FAMILIES[manifest.family], TARGETS[manifest.kind]
    threads = _set_threads(threads or manifest.threads)
    with quiet_libraries(), foreign_files(manifest, folder), sealed_configs():
        described = store.whole(manifest.content)
        device = require_device(manifest.needs.device, manifest.needs.gpu, str(folder))
        model = target.load(folder, described, family, threads, device)
        return FamilyModel(model, family.processor(folder), family)


def _decoding(folder: Path, manifest: SealedManifest) -> Values:
    """Return the sealed options of decoding; those of earlier releases are in the recipe alone."""
    with foreign_files(manifest, folder), sealed_configs():
        if manifest.decoding:
            return complete(manifest.decoding)
        with needing():
            from exporter import recipe

        return vars(recipe.read(folder / RECIPE).decoding)


@needing("build")
def load_original(
    source: Path | str,
    base: Path = Path(),
    *,
    device: str | None = None,
    threads: int | None = None,
    decoding: Decoding | None = None,
    allow_pickle: bool = False,
) -> Recogniser:
    """Open a checkpoint in float32 in transformers: the reference for every comparison.

    Args:
        source: A checkpoint's folder, relative to `base`, or its Hub id.
        base: The folder that `source` is relative to.
        device: The kind of device to run it on, "cpu" (the default) or "cuda", in float32 on
            either. CUDA_VISIBLE_DEVICES selects the card.
        threads: Number of CPU threads of the whole process; by default one per core.
        decoding: Default options of `transcribe`; None: each option's own default. Its `language`
            is that of a checkpoint of many.
        allow_pickle: Read torch's pickled files if there are no safetensors.

    Returns:
        A `Recogniser`, like an artifact's.

    Raises:
        CheckpointError: It is missing, damaged, incomplete or of an unknown family.
        MachineError: This machine lacks the device, or the extra `build`.
        HubError: The Hub does not have it or cannot be reached.
        RecipeError: An argument has a value that it cannot have.
    """
    _require_usable(device, threads)
    on_card = device is not None and str(device) == "cuda"
    if on_card:
        require_device("cuda", what="device='cuda'")
        _require_torch_for_cuda()
    from exporter.checkpoint.checkpoint import open_checkpoint
    from exporter.checkpoint.compatibility import check_fit
    from exporter.families import FAMILIES, family_name
    from exporter.recipe import Decoding

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
        if on_card:
            model = model.to("cuda")
        whole = FamilyModel(model, family.processor(folder), family)
    return Recogniser(whole, vars(decoding), lambda: whole)


def _require_usable(device: str | None, threads: int | None) -> None:
    """Check that the device is a known kind and the number of threads is positive."""
    kind, colon, number = ("cpu" if device is None else str(device)).partition(":")
    if kind == "cuda" and colon:
        msg = (
            f"device={str(device)[:40]!r}: a process uses one card, which CUDA_VISIBLE_DEVICES "
            f"selects.\nSet CUDA_VISIBLE_DEVICES={number[:8] if number.isdecimal() else 0} before "
            "it starts, and give device='cuda'."
        )
        raise RecipeError(msg)
    if kind not in DEVICES or colon:
        offered = " or ".join(map(repr, DEVICES))
        msg = f"device={str(device)[:40]!r}: give {offered}, or leave it out"
        raise RecipeError(msg)
    most = thread_limit()
    if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= most):
        msg = f"threads={threads!r:.40}: give a whole number from 1 to {most}, or leave it out"
        raise RecipeError(msg)


def _threads(threads: int | None) -> int:
    """Return the number of threads to use; by default, one per core."""
    chosen = threads or describe().cores
    if chosen > thread_limit():
        msg = (
            f"it was compiled for {chosen} threads, and this machine's {describe().cores} cores "
            f"carry {thread_limit()} at most: build it again with fewer"
        )
        raise MachineError(msg)
    return chosen


def _set_threads(threads: int | None) -> int:
    import torch

    chosen = _threads(threads)
    torch.set_num_threads(chosen)
    return chosen


def _require_built_for(device: str | None, folder: Path, manifest: SealedManifest) -> None:
    built_for = manifest.needs.device
    if device is not None and str(device) != built_for:
        msg = (
            f"{folder} was built for {built_for!r:.60}, not for {str(device)!r}.\n"
            f"Leave out the device, or build an artifact with `device: {device}`."
        )
        raise RecipeError(msg)


def _require_machine(folder: Path, manifest: SealedManifest) -> None:
    """Check that this machine has what the artifact needs."""
    require_device(manifest.needs.device, manifest.needs.gpu, str(folder))
    require_features(manifest.needs.cpu_features, str(folder))
    for package in manifest.needs.packages:
        _require_package(package, manifest.needs.device)
    if manifest.needs.device == "cuda" and "torch" in manifest.needs.packages:
        _require_torch_for_cuda()


def _require_torch_for_cuda() -> None:
    """Check that torch computes on the card, in float32 where it is told float32."""
    import torch

    if not torch.cuda.is_available():
        build = torch.version.cuda
        why = f"for CUDA {build}, and finds no card it can use" if build else "without CUDA"
        msg = (
            f"torch {torch.__version__} is built {why}.\n"
            "Install one for the driver's version of CUDA: https://pytorch.org/get-started"
        )
        raise MachineError(msg)
    torch.backends.cudnn.allow_tf32 = False  # convolutions have 10 bits of a fraction otherwise


def _require_package(package: str, device: str) -> None:
    """Check that a package is installed, and by only one wheel."""
    wheels = [name for name in (package, f"{package}-gpu") if _is_installed(name)]
    if not wheels and package in ("onnxruntime", "torch"):
        raise missing_package(package, device=device)
    if not wheels:
        # The message takes no install command from a manifest, which is not trusted.
        msg = f"this artifact needs {package!r:.60}, which is not installed"
        raise MachineError(msg)
    if len(wheels) > 1:
        msg = (
            f"{' and '.join(wheels)} are both installed and overwrite each other.\n"
            f"Fix it: pip uninstall -y {' '.join(wheels)} && pip install {wheels[-1]}"
        )
        raise MachineError(msg)


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution  # slow, and aoti needs none

    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):  # which an empty name raises
        return False
    return True
