"""One model in both passes: timed alone, then its transcripts, which workers may share."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from exporter.bench.executors import Executor, Task
from exporter.system.progress import Progress
from validate.corpus import Corpus
from validate.measure import latency, transcripts
from validate.measure.latency import Measurement
from validate.measure.model import ModelSpec
from validate.measure.transcripts import Part


@dataclass(frozen=True)
class ModelRun:
    """A model that is measured, and that transcribes a corpus, when that is first asked for.

    Attributes:
        spec: The model.
        name: How messages call it.
        corpus: What it transcribes.
        timed: The places of the clips to time.
        output: A path of its own; what files it writes begin with its name.
        executor: Where it transcribes; it is timed here.
        progress: Hears what is being done.
    """

    spec: ModelSpec
    name: str
    corpus: Corpus
    timed: tuple[int, ...]
    output: Path
    executor: Executor
    progress: Progress

    @property
    def request(self) -> latency.Request:
        """What to measure, alone or by turns with another model."""
        return latency.Request(
            spec=self.spec,
            clips=tuple(self.corpus[place].path for place in self.timed),
            shapes=tuple(self.corpus[place].path for place in self.corpus.typical()),
        )

    @cached_property
    def measurement(self) -> Measurement:
        """Measure the model in a process of its own; a single worker then goes on there."""
        alone = self.executor.workers == 1
        part = self._parts[0] if alone else None
        request = self.request.model_copy(update={"part": part})
        return latency.measure_fresh(request, self.name, self.progress)

    @cached_property
    def transcripts(self) -> tuple[Path, ...]:
        """Transcribe the corpus; give the files that hold it, in order."""
        if self.executor.workers == 1:
            _ = self.measurement  # its process transcribes, too
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
