"""One model in both passes: timed alone, then transcribing the corpus in several workers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from exporter.engine.executors import Executor, Task, answers
from exporter.system.progress import Progress
from exporter.validate.corpus.index import Corpus
from exporter.validate.evidence.results import Expected
from exporter.validate.measure import latency, transcripts
from exporter.validate.measure.latency import Measurement
from exporter.validate.measure.model import ModelSpec
from exporter.validate.measure.transcripts import ClipResult, Part


@dataclass(frozen=True)
class ModelRun:
    """A model to measure and to transcribe a corpus with, each at its first use.

    Attributes:
        spec: The model.
        name: Its name in messages.
        corpus: The first clips to transcribe.
        timed: The indices of the clips to time.
        output: A path of its own; the names of the files it writes begin with this one.
        executor: Runs the transcription, but not the timed pass.
        progress: Called with the current activity.
        expected: What the original computes, to compare an artifact with step by step.
        kept: The file of the model's kept transcripts, of an original.
    """

    spec: ModelSpec
    name: str
    corpus: Corpus
    timed: tuple[int, ...]
    output: Path
    executor: Executor
    progress: Progress
    expected: Expected | None = None
    kept: Path | None = None
    _heard: list[Part] = field(default_factory=list, init=False)

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
        parts = self._cut(self.corpus) if alone else []
        part = parts[0] if parts else None
        request = self.request.model_copy(update={"part": part, "expected": self.expected})
        measured = latency.measure_fresh(request, self.name, self.progress)
        self._heard.extend(parts)
        return measured

    def transcripts(self, corpus: Corpus) -> Iterator[ClipResult]:
        """Transcribe the clips of a corpus that were not transcribed yet.

        Args:
            corpus: `self.corpus`, or one of a later look that begins with the same clips.

        Returns:
            What was heard in the clips of `corpus`, in their order.
        """
        if self.executor.workers == 1:
            _ = self.measurement  # measuring also transcribes the first clips
        parts = self._cut(corpus)
        for _ in answers(self.executor, [self._task(part) for part in parts], self._prefixed):
            pass
        self._heard.extend(parts)
        results = transcripts.read_transcripts([part.output for part in self._heard])
        return islice(results, len(corpus))

    def _cut(self, corpus: Corpus) -> list[Part]:
        """Cut the clips of a corpus that were not transcribed yet."""
        done, number = sum(part.clips for part in self._heard), len(self._heard)
        cut = corpus.parts(self.executor.workers, self.spec.decoding.batch_size, done)
        return [
            Part(
                index=corpus.index.path,
                offset=corpus.index.offsets[places.start],
                first=places.start,
                clips=len(places),
                total=len(corpus),
                output=self.output.with_name(f"{self.output.name}-{number + place}.jsonl"),
                kept=self.kept,
            )
            for place, places in enumerate(cut)
        ]

    def _task(self, part: Part) -> Task:
        request = transcripts.Request(spec=self.spec, part=part).model_dump(mode="json")
        step = f"{transcripts.__name__}:transcribe"
        return Task(step, request, self.name, self.spec.threads)

    def _prefixed(self, what: str, done: float | None) -> None:
        self.progress(f"{self.name}: {what}", done)
