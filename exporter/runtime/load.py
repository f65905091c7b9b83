"""The public Python API: open an artifact, or an original, and transcribe.

from exporter.runtime import load
print(load("artifacts/whisper-demo-int8/onnx-int8").transcribe("speech.wav")[0].text)

Imports torch, and whatever else could run code, only after an artifact has been admitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter import recipe
from exporter.artifact.manifest import RECIPE, Manifest
from exporter.artifact.store import require_same
from exporter.artifact.trust import verify_and_authorize
from exporter.errors import IntegrityError, MachineError
from exporter.families.transcript import Audio, Transcript
from exporter.formats import audio
from exporter.hub import pull
from exporter.recipe import Decoding
from exporter.system.accelerators import require_device
from exporter.system.hardware import describe, require_features
from exporter.system.progress import Progress, silent

if TYPE_CHECKING:
    from exporter.families.base import Family


@dataclass(frozen=True)
class Recogniser:
    """A model that is ready to transcribe.

    `model` is a transformers `WhisperForConditionalGeneration` (or one that acts as it), so that
    `pipeline("automatic-speech-recognition", model=...)` accepts it with the parts of `processor`.
    """

    model: Any
    processor: Any
    family: Family
    decoding: Decoding
    manifest: Manifest | None = None

    @property
    def sampling_rate(self) -> int:
        """Samples a second that `transcribe` expects of arrays; files are resampled to it."""
        return self.family.sampling_rate(self.processor)

    def transcribe(
        self,
        recordings: Path | str | Audio | Sequence[Path | str | Audio],
        decoding: Decoding | None = None,
    ) -> list[Transcript]:
        """Transcribe one recording or several, given as files or as float32 mono [samples].

        Recordings may be longer than the model's window. `decoding` defaults to the recipe's.
        """
        if isinstance(recordings, (str, Path, np.ndarray)):
            recordings = [recordings]
        if decoding is not None and decoding != self.decoding:
            self.family.check_decoding(self.family.configs(self.model), decoding)
        rate = self.sampling_rate
        sounds = [r if isinstance(r, np.ndarray) else audio.read(Path(r), rate) for r in recordings]
        return self.family.transcribe(self.model, self.processor, sounds, decoding or self.decoding)


def load(
    path: Path | str,
    threads: int | None = None,
    *,
    trust: bool = False,
    progress: Progress = silent,
) -> Recogniser:
    """Verify an artifact's bytes and bring it back to life.

    `path` is a folder, or `ORG/NAME` or `ORG/NAME@REVISION` of the Hub, which is pulled first.
    Raises IntegrityError where bytes are not what the manifest promises, TrustError where its code
    was not built on this machine and the caller does not `trust` it, MachineError where this
    machine lacks what the artifact needs. `threads` (default: those compiled in, else all cores)
    holds for this process.
    """
    folder = pull.locate(path, progress, trust=trust)
    manifest = verify_and_authorize(folder, trust=trust)
    device = require_device(manifest.needs.device, str(folder))
    require_features(manifest.needs.cpu_features, str(folder))
    _require_packages(manifest)
    from exporter.families import FAMILIES
    from exporter.targets import TARGETS

    if manifest.family not in FAMILIES or manifest.kind not in TARGETS:
        msg = f"{folder}: a newer exporter built this {manifest.kind} of {manifest.family}: update"
        raise IntegrityError(msg)
    family = FAMILIES[manifest.family]
    threads = _set_threads(threads or manifest.options.get("threads"))
    model = TARGETS[manifest.kind].load(folder, manifest, family, threads, device)
    processor, sealed = family.processor(folder), recipe.read(folder / RECIPE)
    require_same(folder, manifest)  # else parts of two artifacts were put together
    return Recogniser(model, processor, family, sealed.decoding, manifest)


def load_original(
    source: str,
    base: Path = Path(),
    threads: int | None = None,
    decoding: Decoding | None = None,
    *,
    allow_pickle: bool = False,
) -> Recogniser:
    """Open a checkpoint in float32, as transformers runs it: the reference for every comparison."""
    from exporter.checkpoint.checkpoint import open_checkpoint
    from exporter.families import FAMILIES, family_name

    checkpoint = open_checkpoint(source, base, allow_pickle=allow_pickle)
    family = FAMILIES[family_name(checkpoint.config)]
    _set_threads(threads)
    # A plain folder takes transformers' own road: a mistake of ours in reading would show.
    state = None if checkpoint.plain else checkpoint.stored_state()
    with checkpoint.gathered() as folder:
        model = family.open_original(folder, state)
        processor = family.processor(folder)
    return Recogniser(model, processor, family, decoding or Decoding())


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
