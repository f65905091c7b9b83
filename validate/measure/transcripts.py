"""The transcription pass: every clip is transcribed once, in as many processes as workers.

Transcripts are written to disk batch by batch; a process holds the audio of one batch.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from exporter.system.progress import Progress
from exporter.validate.corpus.index import clip_of, rows_from
from exporter.validate.measure.model import Frozen, ModelSpec, OpenModel

Item = TypeVar("Item")


class ClipResult(Frozen):
    """A clip's transcript, its number of tokens, and the distinct ones."""

    text: str
    tokens: int
    distinct: tuple[int, ...] = ()


class Part(Frozen):
    """Consecutive clips of a corpus, and the file for their transcripts.

    Attributes:
        index: The corpus' index.
        offset: Byte offset of the first clip's row in the index.
        first: The first clip's index in the corpus.
        clips: Number of clips in this part.
        total: Number of clips in the corpus.
        output: The file to write, one ClipResult per line.
    """

    index: Path
    offset: int
    first: int
    clips: int
    total: int
    output: Path


class Request(Frozen):
    """A part to transcribe, and the model to use."""

    spec: ModelSpec
    part: Part


def transcribe(step_request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Open a model and transcribe a part: a step for `exporter.system.worker`."""
    request = Request.model_validate(step_request)
    transcribe_part(OpenModel(request.spec, progress), request.part, progress)
    return {}


def transcribe_part(model: OpenModel, part: Part, progress: Progress) -> None:
    """Transcribe a part, and write each batch before the next one is read."""
    rows = islice(rows_from(part.index, part.offset), part.clips)
    done = 0
    with part.output.open("w", encoding="utf-8") as stream:
        for batch in batches(map(clip_of, rows), model.decoding.batch_size):
            clip = f"clip {part.first + done + 1} of {part.total} ({batch[0].path.name})"
            progress(clip, done / part.clips)
            paths, languages = zip(*((each.path, each.language) for each in batch), strict=True)
            for transcript in model.transcribe(paths, languages)[0]:
                tokens = transcript.tokens
                distinct = tuple(sorted({*tokens}))
                result = ClipResult(text=transcript.text, tokens=len(tokens), distinct=distinct)
                stream.write(result.model_dump_json() + "\n")
            done += len(batch)


def read_transcripts(paths: Sequence[Path]) -> Iterator[ClipResult]:
    """Yield the clip results of the parts' files, in order."""
    for path in paths:
        with path.open(encoding="utf-8") as stream:
            yield from (ClipResult(**json.loads(line)) for line in stream)


def batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last may be shorter."""
    while batch := list(islice(items, size)):
        yield batch
