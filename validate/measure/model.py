"""An open model in a fresh process, which transcribes batches of files and times them."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from exporter.bench.timing import opened
from exporter.formats import audio
from exporter.recipe import Decoding
from exporter.runtime.transcript import Sound, Transcript
from exporter.system.accelerators import Device
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
        device: The kind of device to run it on.
    """

    model: Path
    original: bool
    trust: bool = False
    threads: int
    decoding: Decoding
    languages: dict[str, str] = {}
    device: Device = "cpu"


class OpenModel:
    """A model ready to transcribe.

    Attributes:
        load_s: Seconds to open it, without imports.
    """

    def __init__(self, spec: ModelSpec, progress: Progress) -> None:
        progress("loading", None)
        self.folder = spec.model
        self._opened = opened(
            spec.model,
            original=spec.original,
            threads=spec.threads,
            decoding=spec.decoding,
            trust=spec.trust,
            device=spec.device,
        )
        self.recogniser, self.load_s = self._opened.recogniser, self._opened.load_s
        self.decoding = spec.decoding
        self._languages = spec.languages
        self.rate = self.recogniser.sampling_rate

    def device_memory_bytes(self) -> int | None:
        """Return the card's memory that the model takes now; None on a CPU."""
        return self._opened.device_memory_bytes()

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
            The transcripts, and the seconds from samples to text, until the device is done; of
            recordings longer than `audio.WHOLE_S`, also those of reading.
        """
        samples = [self.read(path) for path in batch]
        ways = [self.decoding_in(name) for name in languages] or [self.decoding] * len(samples)
        clock = self._opened.clock
        start = clock.now()
        transcripts: dict[int, Transcript] = {}
        for way in dict.fromkeys(ways):
            places = [place for place, other in enumerate(ways) if other == way]
            sounds = [samples[place] for place in places]
            decoded = self.recogniser.decode(sounds, way)
            transcripts.update(zip(places, decoded, strict=True))
        return [transcripts[place] for place in range(len(ways))], clock.now() - start
