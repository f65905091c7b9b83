"""One model in both passes: timed alone, then transcribing the corpus in several workers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

from exporter.engine.executors import Executor, answers
from exporter.system.progress import Progress
from exporter.validate.evidence.results import Expected
from exporter.validate.measure import latency
from exporter.validate.measure.latency import Measurement
from exporter.validate.measure.transcripts import ClipResult, read_transcripts
from exporter.validate.shards.hearing import Hearing


@dataclass(frozen=True)
class ModelRun:
    """A model to measure, and to transcribe clips with that are read here, each at its first use.

    Attributes:
        hearing: What it hears.
        request: The measurement to make, alone or interleaved with another model.
        output: A path of its own; the names of the files it writes begin with this one.
        executor: Runs the transcription, but not the timed pass.
        progress: Called with the current activity.
        expected: What the original computes, to compare an artifact with step by step.
    """

    hearing: Hearing
    request: latency.Request
    output: Path
    executor: Executor
    progress: Progress
    expected: Expected | None = None
    _numbers: Iterator[int] = field(default_factory=count, init=False)

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return self.hearing.listener.name

    @cached_property
    def measurement(self) -> Measurement:
        """Measure the model in a process of its own, which a single worker then reuses."""
        alone = self.executor.workers == 1 and self.hearing.reading.here
        shards = self.hearing.missing(0) if alone else []
        parts = tuple(self.hearing.request(shard, self._output()) for shard in shards)
        request = self.request.model_copy(update={"parts": parts, "expected": self.expected})

        def keep(place: int) -> None:
            self.hearing.keep(shards[place], read_transcripts(parts[place].output))
            parts[place].output.unlink()

        return latency.measure_fresh(request, self.name, self.progress, keep)

    def transcripts(self, look: int) -> Iterator[ClipResult]:
        """Transcribe the clips up to a look that were not transcribed yet.

        Args:
            look: The look, from 0.

        Returns:
            What was heard in the clips, in their order.
        """
        if self.executor.workers == 1:
            _ = self.measurement  # measuring also transcribes the first clips
        shards = self.hearing.missing(look)
        tasks = [self.hearing.task(shard, self._output()) for shard in shards]
        for _ in answers(self.executor, tasks, self.progress):
            pass
        return self.hearing.results(look)

    def _output(self) -> Path:
        return self.output.with_name(f"{self.output.name}-{next(self._numbers)}.jsonl")
