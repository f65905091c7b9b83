"""The transcription pass: every clip is transcribed once, in as many processes as workers.

Transcripts are written to disk batch by batch; a process holds the audio of one batch. Those of an
original are kept for other runs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from exporter.recognition.kept import Kept
from exporter.system.progress import Progress
from exporter.validate.corpus.index import clip_of, rows_from, sound_of
from exporter.validate.measure.model import Frozen, ModelSpec, OpenModel

Item = TypeVar("Item")


class ClipResult(Frozen):
    """A clip's transcript, its number of tokens, and the distinct ones.

    `kept` is whether it was heard in an earlier run.
    """

    text: str
    tokens: int
    distinct: tuple[int, ...] = ()
    kept: bool = False


class Part(Frozen):
    """Consecutive clips of a corpus, and the file for their transcripts.

    Attributes:
        index: The corpus' index.
        offset: Byte offset of the first clip's row in the index.
        first: The first clip's index in the corpus.
        clips: Number of clips in this part.
        total: Number of clips in the corpus.
        output: The file to write, one ClipResult per line.
        kept: The file of the model's kept transcripts; None: all is heard, and nothing kept.
    """

    index: Path
    offset: int
    first: int
    clips: int
    total: int
    output: Path
    kept: Path | None = None


class Request(Frozen):
    """A part to transcribe, and the model to use."""

    spec: ModelSpec
    part: Part


def transcribe(step_request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Transcribe a part: a step for `exporter.system.worker`; a model is opened if it is needed."""
    request = Request.model_validate(step_request)
    opened = cache(partial(OpenModel, request.spec, progress))
    _transcribe(opened, request.spec, request.part, progress)
    return {}


def transcribe_part(model: OpenModel, part: Part, progress: Progress) -> None:
    """Transcribe a part, and write each batch before the next one is read."""
    _transcribe(lambda: model, model.spec, part, progress)


def _transcribe(
    opened: Callable[[], OpenModel], spec: ModelSpec, part: Part, progress: Progress
) -> None:
    rows = islice(rows_from(part.index, part.offset), part.clips)
    kept = Kept(part.kept) if part.kept else None
    done = 0
    with part.output.open("w", encoding="utf-8") as stream:
        for batch in batches(rows, spec.decoding.batch_size):
            clips = [clip_of(row) for row in batch]
            clip = f"clip {part.first + done + 1} of {part.total} ({clips[0].path.name})"
            progress(clip, done / part.clips)
            for result in _heard(opened, spec, batch, kept):
                stream.write(result.model_dump_json() + "\n")
            done += len(batch)


def _heard(
    opened: Callable[[], OpenModel], spec: ModelSpec, batch: Sequence[list[Any]], kept: Kept | None
) -> list[ClipResult]:
    """Return what a model hears in a batch of a corpus' rows, or heard in an earlier run.

    Clips that are decoded together may be padded to one length, so the batch is what is kept.
    """
    clips = [clip_of(row) for row in batch]
    languages = [clip.language for clip in clips]
    codes = (spec.languages.get(name) if name else None for name in languages)
    named = [list(each) for each in zip(map(sound_of, batch), codes, strict=True)]
    known = kept.get(named) if kept else None
    if known is not None:
        return [ClipResult(**each, kept=True) for each in known]
    found = []
    for transcript in opened().transcribe([clip.path for clip in clips], languages)[0]:
        distinct = tuple(sorted({*transcript.tokens}))
        found.append(
            ClipResult(text=transcript.text, tokens=len(transcript.tokens), distinct=distinct)
        )
    if kept:
        kept.put(named, [each.model_dump(mode="json", exclude={"kept"}) for each in found])
    return found


def read_transcripts(paths: Sequence[Path]) -> Iterator[ClipResult]:
    """Yield the clip results of the parts' files, in order."""
    for path in paths:
        with path.open(encoding="utf-8") as stream:
            yield from (ClipResult(**json.loads(line)) for line in stream)


def batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last may be shorter."""
    while batch := list(islice(items, size)):
        yield batch
