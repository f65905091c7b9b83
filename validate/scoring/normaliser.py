"""Normalise texts: one function for both sides and the true texts, named in the report."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from exporter.artifact.report import NormaliserStamp
from exporter.errors import DataError, IntegrityError, exhausted
from exporter.formats.clips import MAX_CHARACTERS
from exporter.system.files import read_small

_ENGLISH = re.compile(r"(<\|)?(en|eng|english)([-_][a-z]+)?(\|>)?", re.IGNORECASE)
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
