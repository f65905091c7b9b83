"""One open model in a fresh process: batches of files in, transcripts and seconds out."""

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from exporter.bench.timing import opened
from exporter.families.transcript import Transcript
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.system.progress import Progress


class Frozen(BaseModel):
    """Plain data that crosses from one process to another."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(Frozen):
    """Which model runs, and how.

    Attributes:
        model: A sealed artifact, or an original checkpoint's folder.
        original: Which of the two it is.
        trust: The user's word for an artifact's code, or for an original's pickle.
        threads: Of the numerical libraries.
        decoding: How audio becomes text.
    """

    model: Path
    original: bool
    trust: bool = False
    threads: int
    decoding: Decoding


class OpenModel:
    """A model that is ready; `load_s` is what opening it took, imports left out."""

    def __init__(self, spec: ModelSpec, progress: Progress) -> None:
        progress("loading", None)
        self.recogniser, self.load_s = opened(
            spec.model, original=spec.original, threads=spec.threads, trust=spec.trust
        )
        self.decoding = spec.decoding
        self.rate = self.recogniser.family.sampling_rate(self.recogniser.processor)

    def read(self, path: Path) -> audio.Samples:
        """Read a recording at the model's rate, float32 [samples]."""
        return audio.read(path, self.rate)

    def transcribe(self, batch: Sequence[Path]) -> tuple[Sequence[Transcript], float]:
        """Transcribe a batch of files.

        Returns:
            The transcripts, and the seconds from samples in to text out.
        """
        samples = [self.read(path) for path in batch]
        start = time.perf_counter()
        transcripts = self.recogniser.decode(samples, self.decoding)
        return transcripts, time.perf_counter() - start
