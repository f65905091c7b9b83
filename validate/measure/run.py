"""One model in both passes: timed alone, then transcribing the corpus in several workers."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from exporter.bench.executors import Executor, Task
from exporter.system.progress import Progress
from exporter.validate.corpus.index import Corpus
from exporter.validate.evidence.results import Expected
from exporter.validate.measure import latency, transcripts
from exporter.validate.measure.latency import Measurement
from exporter.validate.measure.model import ModelSpec
from exporter.validate.measure.transcripts import Part


@dataclass(frozen=True)
class ModelRun:
    """A model to measure and to transcribe a corpus with, each at its first use.

    Attributes:
        spec: The model.
        name: Its name in messages.
        corpus: The clips to transcribe.
        timed: The indices of the clips to time.
        output: A path of its own; the names of the files it writes begin with this one.
        executor: Runs the transcription, but not the timed pass.
        progress: Called with the current activity.
        expected: What the original computes, to compare an artifact with step by step.
    """

    spec: ModelSpec
    name: str
    corpus: Corpus
    timed: tuple[int, ...]
    output: Path
    executor: Executor
    progress: Progress
    expected: Expected | None = None

    @property
    def request(self) -> latency.Request:
        """The measurement to make, alone or interleaved with another model."""
        timed = [self.corpus[place] for place in self.timed]
        typical = [self.corpus[place] for place in self.corpus.typical()]
        (shared, *others) = {clip.language for clip in typical}
        return latency.Request(
            spec=self.spec,
            clips=tuple(clip.path for clip in timed),
            languages=tuple(clip.language for clip in timed),
            shapes=tuple(clip.path for clip in typical),
            shapes_language=None if others else shared,
        )

    @cached_property
    def measurement(self) -> Measurement:
        """Measure the model in a process of its own, which a single worker then reuses."""
        alone = self.executor.workers == 1
        part = self._parts[0] if alone else None
        request = self.request.model_copy(update={"part": part, "expected": self.expected})
        return latency.measure_fresh(request, self.name, self.progress)

    @cached_property
    def transcripts(self) -> tuple[Path, ...]:
        """Transcribe the corpus; return the files with the transcripts, in order."""
        if self.executor.workers == 1:
            _ = self.measurement  # measuring also transcribes the only part
        else:
            for _ in self.executor.map([self._task(part) for part in self._parts], self._prefixed):
                pass
        return tuple(part.output for part in self._parts)

    @cached_property
    def _parts(self) -> list[Part]:
        cut = self.corpus.parts(self.executor.workers, self.spec.decoding.batch_size)
        return [
            Part(
                index=self.corpus.index.path,
                offset=self.corpus.index.offsets[places.start],
                first=places.start,
                clips=len(places),
                total=len(self.corpus),
                output=self.output.with_name(f"{self.output.name}-{number}.jsonl"),
            )
            for number, places in enumerate(cut)
        ]

    def _task(self, part: Part) -> Task:
        request = transcripts.Request(spec=self.spec, part=part).model_dump(mode="json")
        step = f"{transcripts.__name__}:transcribe"
        return Task(step, request, self.name, self.spec.threads)

    def _prefixed(self, what: str, done: float | None) -> None:
        self.progress(f"{self.name}: {what}", done)
