"""An open model in a fresh process, which transcribes batches of files and times them."""

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from exporter.bench.timing import opened
from exporter.families.transcript import Sound, Transcript
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.system.progress import Progress


class Frozen(BaseModel):
    """Plain data passed between processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(Frozen):
    """A model to run, and its settings.

    Attributes:
        model: A sealed artifact, or an original checkpoint's folder.
        original: True for an original checkpoint, False for an artifact.
        trust: The user trusts the artifact's native code, or the original's pickle.
        threads: Threads of the numerical libraries.
        decoding: The decoding options.
    """

    model: Path
    original: bool
    trust: bool = False
    threads: int
    decoding: Decoding


class OpenModel:
    """A model ready to transcribe; `load_s` is the seconds to open it, without imports."""

    def __init__(self, spec: ModelSpec, progress: Progress) -> None:
        progress("loading", None)
        self.folder = spec.model
        self.recogniser, self.load_s = opened(
            spec.model, original=spec.original, threads=spec.threads, trust=spec.trust
        )
        self.decoding = spec.decoding
        self.rate = self.recogniser.family.sampling_rate(self.recogniser.processor)

    def read(self, path: Path) -> Sound:
        """Read a recording at the model's rate, float32 [samples]; a long one is read later."""
        return audio.read(path, self.rate)

    def transcribe(self, batch: Sequence[Path]) -> tuple[Sequence[Transcript], float]:
        """Transcribe a batch of files.

        Returns:
            The transcripts, and the seconds from samples to text; of recordings longer than
            `audio.WHOLE_S`, also those of reading.
        """
        samples = [self.read(path) for path in batch]
        start = time.perf_counter()
        transcripts = self.recogniser.decode(samples, self.decoding)
        return transcripts, time.perf_counter() - start
