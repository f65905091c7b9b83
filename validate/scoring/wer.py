"""Word and character errors: one normaliser for both sides, corpus counts, alignments, loops.

Rates are sums of errors over sums of words, never means of per-clip rates.
"""

import hashlib
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import jiwer
import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from exporter.artifact.report import NormaliserStamp
from exporter.errors import DataError, IntegrityError, exhausted
from exporter.formats.clips import MAX_CHARACTERS
from exporter.system.files import read_small

Counts = NDArray[np.int64]
_ENGLISH = re.compile(r"(<\|)?(en|eng|english)([-_][a-z]+)?(\|>)?", re.IGNORECASE)
# Whisper's own threshold for text that repeats itself (its `compression_ratio_threshold`).
_COMPRESSION_RATIO = 2.4
_PIECE_BYTES = 500  # about the text of one window of 30 s
_LOOP_REPEATS, _LOOP_WORDS = 4, 8
_MAX_SPELLINGS_BYTES = 16 << 20
# As in transformers' normalisers.
_BRACKETS, _PARENTHESES = re.compile(r"[<\[][^>\]]*[>\]]"), re.compile(r"\([^)]+\)")
_GAPS = re.compile(r"\s{3,}")
_MOST_MARKS = 30  # on one letter, as in Unicode's stream-safe text; ordering more is quadratic


@dataclass(frozen=True)
class Normaliser:
    """A function that unifies spellings of the same words, and the stamp that identifies it.

    `apply` raises DataError for a text that is too long, or that the normaliser cannot take.
    """

    apply: Callable[[str], str]
    stamp: NormaliserStamp

    def words(self, text: str) -> str | None:
        """Return a text's words, or None if it cannot be normalised."""
        try:
            return self.apply(text)
        except DataError:
            return None


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


def normaliser(language: str | None, folder: Path) -> Normaliser:
    """Return Whisper's English normaliser for English, its basic one otherwise, as in transformers.

    Args:
        language: A code or name such as "en" or "English"; None if unknown.
        folder: The model's folder, whose `normalizer.json`, if any, maps British spellings.

    Raises:
        IntegrityError: `normalizer.json` is not a mapping of spellings.
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
    fillers = re.compile(apply.ignore_patterns) if english else None
    return Normaliser(lambda text: _applied(apply, text, fillers), stamp)


def _applied(apply: Callable[[str], str], text: str, fillers: re.Pattern[str] | None) -> str:
    if len(text) > MAX_CHARACTERS:
        msg = f"a text of {len(text):,} characters, more than {MAX_CHARACTERS:,}"
        raise DataError(msg)
    if not text.isascii() and _longest_marks(text) > _MOST_MARKS:
        msg = f"more than {_MOST_MARKS} marks on one letter are no text"
        raise DataError(msg)
    try:
        return " ".join(apply(_tamed(text, fillers)).split())
    except Exception as error:  # whatever it raises: it is not ours, and models write anything
        if exhausted(error):
            raise
        msg = f"the text normaliser fails on it ({type(error).__name__}: {str(error)[:80]})"
        raise DataError(msg) from error


def _longest_marks(text: str) -> int:
    runs = groupby(text, key=lambda character: bool(unicodedata.combining(character)))
    return max((sum(1 for _ in run) for marks, run in runs if marks), default=0)


def _tamed(text: str, fillers: re.Pattern[str] | None) -> str:
    """Return a text with the same normalised words, on which no pattern takes quadratic time.

    The normalisers search for the end of every bracket, and English for an apostrophe after every
    space. So brackets that do not end become another symbol, and long gaps two spaces; the steps
    before are taken here because they make gaps.
    """
    text = _without(text.lower(), "<[", ">]", _BRACKETS)
    text = _without(text, "(", ")", _PARENTHESES)
    return text if fillers is None else _GAPS.sub("  ", fillers.sub("", text))


def _without(text: str, opening: str, closing: str, pair: re.Pattern[str]) -> str:
    """Remove pairs of brackets, and replace those that never end."""
    end = max(map(text.rfind, closing)) + 1
    return pair.sub("", text[:end]) + text[end:].translate(dict.fromkeys(map(ord, opening), "|"))


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
        return len(words), 0, 0, 0, len(truth), 0
    numbers: dict[str, int] = {}
    sides = [
        [numbers.setdefault(word, len(numbers)) for word in text]
        for text in (words, hypothesis.split())
    ]
    kinds = Counter(operation.tag for operation in Levenshtein.editops(*sides))
    return (
        len(words),
        *(kinds[kind] for kind in ("replace", "delete", "insert")),
        len(truth),
        Levenshtein.distance(truth, hypothesis),
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
