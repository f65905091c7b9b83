"""An open model in a fresh process, which transcribes batches of files and times them."""

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from exporter.bench.timing import opened
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.runtime.transcript import Sound, Transcript
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
        languages: The code of each language that the data name, where that of a clip is decoded in;
            others, and all clips if it is empty, as `decoding` says.
    """

    model: Path
    original: bool
    trust: bool = False
    threads: int
    decoding: Decoding
    languages: dict[str, str] = {}


class OpenModel:
    """A model that is ready to transcribe; `load_s` is the seconds to open it, without imports."""

    def __init__(self, spec: ModelSpec, progress: Progress) -> None:
        progress("loading", None)
        self.spec, self.folder = spec, spec.model
        self.recogniser, self.load_s = opened(
            spec.model,
            original=spec.original,
            threads=spec.threads,
            decoding=spec.decoding,
            trust=spec.trust,
        )
        self.decoding = spec.decoding
        self._languages = spec.languages
        self.rate = self.recogniser.sampling_rate

    @property
    def window(self) -> int:
        """The samples in a window of the model."""
        return self.recogniser.window

    def read(self, path: Path) -> Sound:
        """Read a recording at the model's rate, float32 [samples]; a long one is read later."""
        return audio.read(path, self.rate)

    def decoding_in(self, language: str | None) -> Decoding:
        """Return how clips are decoded for which the data name a language, or none."""
        code = self._languages.get(language) if language else None
        return self.decoding.model_copy(update={"language": code}) if code else self.decoding

    def transcribe(
        self, batch: Sequence[Path], languages: Sequence[str | None] = ()
    ) -> tuple[Sequence[Transcript], float]:
        """Transcribe a batch of files; clips of different languages are decoded apart.

        Args:
            batch: The files.
            languages: The language that the data name for each; empty: none is named.

        Returns:
            The transcripts, and the seconds from samples to text; of recordings longer than
            `audio.WHOLE_S`, also those of reading.
        """
        samples = [self.read(path) for path in batch]
        ways = [self.decoding_in(name) for name in languages] or [self.decoding] * len(samples)
        start = time.perf_counter()
        transcripts: dict[int, Transcript] = {}
        for way in dict.fromkeys(ways):
            places = [place for place, other in enumerate(ways) if other == way]
            sounds = [samples[place] for place in places]
            decoded = self.recogniser.decode(sounds, way)
            transcripts.update(zip(places, decoded, strict=True))
        return [transcripts[place] for place in range(len(ways))], time.perf_counter() - start
