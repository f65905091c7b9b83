"""Word and character errors: corpus counts, alignments, loops.

Rates are sums of errors over sums of words, never means of per-clip rates.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import jiwer
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from exporter.errors import DataError
from exporter.validate.scoring.normaliser import joined

Counts = NDArray[np.int64]
# Whisper's own threshold for text that repeats itself (its `compression_ratio_threshold`).
_COMPRESSION_RATIO = 2.4
_PIECE_BYTES = 500  # about the text of one window of 30 s
_LOOP_REPEATS, _LOOP_WORDS = 4, 8


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
    """One column of an alignment: the true word and each side's word (None: no word)."""

    truth: str | None
    reference: str | None
    candidate: str | None


def score(truth: Sequence[str], hypothesis: Sequence[str]) -> Scores:
    """Count the errors of each clip, as jiwer does; only words that differ are aligned.

    Args:
        truth: The true texts, normalised: words with single spaces between them.
        hypothesis: The transcripts of the same clips, normalised.
    """
    rows = np.array([_errors(*pair) for pair in zip(truth, hypothesis, strict=True)])
    return Scores(*rows.reshape(-1, len(fields(Scores))).astype(np.int64).T)


def _errors(truth: str, hypothesis: str) -> tuple[int, ...]:
    """Count one clip, in the order of the fields of `Scores`."""
    words = truth.split()
    if truth == hypothesis:
        return len(words), 0, 0, 0, len(joined(truth)), 0
    numbers: dict[str, int] = {}
    sides = [
        [numbers.setdefault(word, len(numbers)) for word in text]
        for text in (words, hypothesis.split())
    ]
    kinds = Counter(operation.tag for operation in Levenshtein.editops(*sides))
    return (
        len(words),
        *(kinds[kind] for kind in ("replace", "delete", "insert")),
        len(joined(truth)),
        Levenshtein.distance(joined(truth), joined(hypothesis)),
    )


def total(parts: Sequence[Scores]) -> Scores:
    """Concatenate the scores of several batches of clips.

    Raises:
        DataError: No clip has a word, so the rate is undefined.
    """
    if not any(part.words.any() for part in parts):
        msg = "no clip has a word in its text: a word error rate needs transcripts"
        raise DataError(msg)
    names = [each.name for each in fields(Scores)]
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def align(truth: str, reference: str, candidate: str) -> list[Column]:
    """Align both sides with the true words; insertions get columns of their own.

    Args:
        truth: The true text, normalised, as are the others.
        reference: The original's transcript.
        candidate: The artifact's transcript.
    """
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


def _along(truth: str, hypothesis: str) -> tuple[list[str | None], list[list[str]]]:
    """Return the word aligned with each true word, and the insertions at each position."""
    words, hypothesis_words = truth.split(), hypothesis.split()
    matched: list[str | None] = [None] * len(words)
    extra: list[list[str]] = [[] for _ in range(len(words) + 1)]
    for chunk in jiwer.process_words([truth], [hypothesis]).alignments[0]:
        inside = hypothesis_words[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "insert":
            extra[chunk.ref_start_idx] += inside
        elif chunk.type != "delete":
            matched[chunk.ref_start_idx : chunk.ref_end_idx] = inside
    return matched, extra


def loops(text: str) -> bool:
    """Return whether a transcript repeats itself, as decoders do that miss the end of the text."""
    data = text.encode(errors="backslashreplace")
    pieces = (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES // 2))
    if any(_dense(piece) for piece in pieces):
        return True
    words = text.split()
    return any(_longest_run(words, size) >= _LOOP_WORDS for size in range(1, 9))


def _dense(piece: bytes) -> bool:
    """Check a piece's compression ratio for repetition, as Whisper does for a window."""
    return len(piece) > 40 and len(piece) / len(zlib.compress(piece)) > _COMPRESSION_RATIO


def _longest_run(words: list[str], size: int) -> int:
    """Count the words in the longest run of a repeated phrase of `size` words."""
    longest = same = 0
    for index in range(size, len(words)):
        same = same + 1 if words[index] == words[index - size] else 0
        if same >= size * (_LOOP_REPEATS - 1):
            longest = max(longest, same + size)
    return longest
