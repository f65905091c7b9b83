"""Word and character errors: one normaliser for both sides, corpus counts, alignments, loops.

Rates are sums of errors over sums of words, never means of per-clip rates.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

import jiwer
import numpy as np
from numpy.typing import NDArray

from exporter.artifact.report import NormaliserStamp
from exporter.errors import DataError, IntegrityError
from exporter.system.files import read_small

Counts = NDArray[np.int64]
_ENGLISH = re.compile(r"(<\|)?(en|eng|english)([-_][a-z]+)?(\|>)?", re.IGNORECASE)
# Whisper's own threshold for text that repeats itself (its `compression_ratio_threshold`).
_COMPRESSION_RATIO = 2.4
_PIECE_BYTES = 500  # about what is said in one window of 30 s
_LOOP_REPEATS, _LOOP_WORDS = 4, 8
_MAX_SPELLINGS_BYTES = 16 << 20


@dataclass(frozen=True)
class Normaliser:
    """What makes two spellings of the same words equal, and the stamp that names it."""

    apply: Callable[[str], str]
    stamp: NormaliserStamp


@dataclass(frozen=True)
class Scores:
    """Errors of one side, clip by clip; the arrays are int64 [clips]."""

    words: Counts
    substitutions: Counts
    deletions: Counts
    insertions: Counts
    characters: Counts
    character_errors: Counts

    @property
    def errors(self) -> Counts:
        """Word errors of each clip."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True)
class Column:
    """One place in a clip: the true word and what each side has there (None: nothing)."""

    truth: str | None
    reference: str | None
    candidate: str | None


def normaliser(language: str | None, folder: Path) -> Normaliser:
    """Whisper's English normaliser for English, its basic one otherwise, both as in transformers.

    British spellings are mapped by the `normalizer.json` of the model in `folder`, if it has one.
    """
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    english = bool(language and _ENGLISH.fullmatch(language))
    mapping = _spellings(folder / "normalizer.json") if english else {}
    apply = EnglishTextNormalizer(mapping) if english else BasicTextNormalizer()
    canonical = json.dumps(mapping, sort_keys=True).encode()
    stamp = NormaliserStamp(
        name=type(apply).__name__,
        language=language,
        transformers=version("transformers"),
        jiwer=version("jiwer"),
        spellings=len(mapping),
        spellings_sha256=hashlib.sha256(canonical).hexdigest(),
    )
    return Normaliser(lambda text: " ".join(apply(text).split()), stamp)


def _spellings(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        data = read_small(path, _MAX_SPELLINGS_BYTES, IntegrityError, "a mapping of spellings")
        mapping = json.loads(data.decode("utf-8"))
        return {str(key): str(value) for key, value in mapping.items()}
    except (ValueError, AttributeError) as error:
        msg = f"{path} is not a JSON mapping of spellings ({error})"
        raise IntegrityError(msg) from error


def score(truth: Sequence[str], heard: Sequence[str]) -> Scores:
    """Count the errors of each clip; both sides are normalised already."""
    words = jiwer.process_words(list(truth), list(heard))
    characters = jiwer.process_characters(list(truth), list(heard))
    counts = {kind: _count(words, kind) for kind in ("substitute", "delete", "insert")}
    return Scores(
        words=np.array([len(text) for text in words.references], dtype=np.int64),
        substitutions=counts["substitute"],
        deletions=counts["delete"],
        insertions=counts["insert"],
        characters=np.array([len(text) for text in characters.references], dtype=np.int64),
        character_errors=sum(
            (_count(characters, kind) for kind in counts), np.zeros(len(truth), dtype=np.int64)
        ),
    )


def total(parts: Sequence[Scores]) -> Scores:
    """Put the scores of some clips after those of others.

    Raises:
        DataError: No clip has a word, so there is no rate.
    """
    if not any(part.words.any() for part in parts):
        msg = "no clip has a word in its text: a word error rate needs transcripts"
        raise DataError(msg)
    names = [each.name for each in fields(Scores)]
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _count(output: jiwer.WordOutput | jiwer.CharacterOutput, kind: str) -> Counts:
    """Units of one kind of error in each clip."""
    return np.array(
        [
            sum(
                max(part.ref_end_idx - part.ref_start_idx, part.hyp_end_idx - part.hyp_start_idx)
                for part in parts
                if part.type == kind
            )
            for parts in output.alignments
        ],
        dtype=np.int64,
    )


def align(truth: str, reference: str, candidate: str) -> list[Column]:
    """Lay both sides along the true words; what a side inserts gets columns of its own."""
    words = truth.split()
    ours, ours_extra = _along(truth, reference)
    theirs, theirs_extra = _along(truth, candidate)
    columns = []
    for place in range(len(words) + 1):
        left, right = ours_extra[place], theirs_extra[place]
        for index in range(max(len(left), len(right))):
            columns.append(Column(None, _at(left, index), _at(right, index)))
        if place < len(words):
            columns.append(Column(words[place], ours[place], theirs[place]))
    return columns


def _at(words: list[str], index: int) -> str | None:
    return words[index] if index < len(words) else None


def _along(truth: str, heard: str) -> tuple[list[str | None], list[list[str]]]:
    """The word heard for each true word, and the words inserted before each (and at the end)."""
    words, said = truth.split(), heard.split()
    matched: list[str | None] = [None] * len(words)
    extra: list[list[str]] = [[] for _ in range(len(words) + 1)]
    for chunk in jiwer.process_words([truth], [heard]).alignments[0]:
        inside = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            extra[chunk.ref_start_idx] += inside
        elif chunk.type != "delete":
            matched[chunk.ref_start_idx : chunk.ref_end_idx] = inside
    return matched, extra


def loops(text: str) -> bool:
    """Whether a transcript repeats itself as decoders do that do not find the end."""
    data = text.encode()
    pieces = (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES // 2))
    if any(_dense(piece) for piece in pieces):
        return True
    words = text.split()
    return any(_longest_run(words, size) >= _LOOP_WORDS for size in range(1, 9))


def _dense(piece: bytes) -> bool:
    """Whether a piece compresses as only repetition does; Whisper's own test, on its own length."""
    return len(piece) > 40 and len(piece) / len(zlib.compress(piece)) > _COMPRESSION_RATIO


def _longest_run(words: list[str], size: int) -> int:
    """Words in the longest run of one phrase of `size` words repeated often enough in a row."""
    longest = same = 0
    for index in range(size, len(words)):
        same = same + 1 if words[index] == words[index - size] else 0
        if same >= size * (_LOOP_REPEATS - 1):
            longest = max(longest, same + size)
    return longest
