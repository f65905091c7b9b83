"""The transcription pass: every clip is transcribed once, in as many processes as workers.

Transcripts are written to disk batch by batch; a process holds the audio of one batch. Those of an
original are kept for other runs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from exporter.formats.clips.row_file import rows_from
from exporter.recognition.kept import Kept
from exporter.system.progress import Progress
from exporter.validate.corpus.index import Examined
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
    """Clips that follow each other in an index, and the file for their transcripts.

    Attributes:
        index: The index.
        offset: Byte offset of the first clip's row in the index.
        first: The place of the part's first clip in the order of clips, with which a batch begins;
            clips that could not be read count there, and have no row.
        clips: Number of rows of this part.
        total: Number of clips to hear in all.
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
    rows = map(Examined.of_row, islice(rows_from(part.index, part.offset), part.clips))
    kept = Kept(part.kept) if part.kept else None
    done = 0

    def batch_of(row: Examined) -> int:
        return (row.number - part.first) // spec.decoding.batch_size

    with part.output.open("w", encoding="utf-8") as stream:
        for _, group in groupby(rows, batch_of):
            batch = list(group)
            clip = f"clip {batch[0].number + 1} of {part.total} ({batch[0].clip.path.name})"
            progress(clip, done / part.clips)
            for result in _heard(opened, spec, batch, kept):
                stream.write(result.model_dump_json() + "\n")
            done += len(batch)


def _heard(
    opened: Callable[[], OpenModel], spec: ModelSpec, batch: Sequence[Examined], kept: Kept | None
) -> list[ClipResult]:
    """Return what a model hears in a batch of clips, or heard in an earlier run.

    Clips that are decoded together may be padded to one length, so the batch is what is kept.
    """
    languages = [one.clip.language for one in batch]
    codes = (spec.languages.get(name) if name else None for name in languages)
    named = [[one.sound, code] for one, code in zip(batch, codes, strict=True)]
    known = kept.get(named) if kept else None
    if known is not None:
        return [ClipResult(**each, kept=True) for each in known]
    found = []
    for transcript in opened().transcribe([one.clip.path for one in batch], languages)[0]:
        distinct = tuple(sorted({*transcript.tokens}))
        found.append(
            ClipResult(text=transcript.text, tokens=len(transcript.tokens), distinct=distinct)
        )
    if kept:
        kept.put(named, [each.model_dump(mode="json", exclude={"kept"}) for each in found])
    return found


def read_transcripts(path: Path) -> Iterator[ClipResult]:
    """Yield the clip results of a part's file, in order."""
    with path.open(encoding="utf-8") as stream:
        yield from (ClipResult(**json.loads(line)) for line in stream)


def batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last may be shorter."""
    while batch := list(islice(items, size)):
        yield batch
