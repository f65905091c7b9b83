"""Normalise texts: one function for both sides and the true texts, named in the report.

English takes transformers' `EnglishTextNormalizer`. Every other language takes one of this module:
Whisper's basic normaliser replaces all combining marks by spaces, and thereby removes the vowels of
Indic scripts (Manohar and Pillai, 2024, "What is lost in Normalization?", arXiv:2409.02449).
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from exporter.artifact.report import NormaliserStamp
from exporter.errors import DataError, IntegrityError, exhausted
from exporter.formats.clips.fields import MAX_CHARACTERS
from exporter.system.files import read_small

NAME, VERSION = "UnicodeTextNormalizer", 1
# Written without spaces between words: their error rates are those of characters, as in the Whisper
# paper (Radford et al., 2022, appendix C, for zh, ja, th, lo and my). Here every script without
# spaces counts so: ideographs and kana, and the classes SA (Thai, Lao, Myanmar, Khmer, Tai ...) and
# AK (Balinese, Javanese) of Unicode's line breaking (UAX 14), and Tibetan.
_RANGES = (
    (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B),
    (0x3041, 0x309F), (0x30A1, 0x30FF), (0x3105, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA980, 0xA9FF), (0xAA60, 0xAADF), (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip
_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in _RANGES)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_BETWEEN = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")
_CHARACTER_LANGUAGES = (
    *("bo", "cmn", "dz", "ja", "jpn", "khm", "km", "lao", "lo"),
    *("my", "mya", "th", "tha", "yue", "zh", "zho"),
)
_DOTLESS = ("az", "aze", "azj", "tr", "tur")  # their small I has no dot
_ZERO_WIDTH_SPACE = "\u200b"
# The tatweel, and variation selectors, which choose among shapes of one character.
_UNSEEN = re.compile("[\u0640\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
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
    """Return transformers' English normaliser for English, and `UnicodeTextNormalizer` otherwise.

    Args:
        language: A code or name such as "en" or "English"; None if unknown.
        folder: The model's folder, whose `normalizer.json`, if any, maps British spellings.

    Raises:
        IntegrityError: `normalizer.json` is not a mapping of spellings.
    """
    english = bool(language and _ENGLISH.fullmatch(language))
    return _english(language, folder) if english else _unicode(language)


def _english(language: str | None, folder: Path) -> Normaliser:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    mapping = _spellings(folder / "normalizer.json")
    apply = EnglishTextNormalizer(mapping)
    fillers = re.compile(apply.ignore_patterns)
    stamp = _stamp(type(apply).__name__, language, mapping, unit="word")
    return Normaliser(lambda text: _applied(apply, text, fillers), stamp)


def _unicode(language: str | None) -> Normaliser:
    code = _code(language) if language else None
    unit = "by script" if code is None else "word"
    stamp = _stamp(
        NAME,
        language,
        {},
        unit="character" if code in _CHARACTER_LANGUAGES else unit,
        version=VERSION,
        unicode=unicodedata.unidata_version,
    )
    if code in _DOTLESS:
        return Normaliser(lambda text: _applied(separated, _turkic(text)), stamp)
    return Normaliser(lambda text: _applied(separated, text), stamp)


def _stamp(
    name: str, language: str | None, mapping: dict[str, str], **more: Any
) -> NormaliserStamp:
    canonical = json.dumps(mapping, sort_keys=True).encode()
    return NormaliserStamp(
        name=name,
        language=language,
        transformers=version("transformers"),
        jiwer=version("jiwer"),
        spellings=len(mapping),
        spellings_sha256=hashlib.sha256(canonical).hexdigest(),
        **more,
    )


def _code(language: str) -> str:
    """Return the code of a language that is given as a code, a tag or a name."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    name = language.strip().lower().removeprefix("<|").removesuffix("|>")
    code: str = TO_LANGUAGE_CODE.get(name) or re.split(r"\W|_", name)[0]
    return code


def _turkic(text: str) -> str:
    """Replace the capitals whose small letters are others in Turkish and Azerbaijani."""
    return text.replace("\u0130", "i").replace("I", "\u0131")


def separated(text: str) -> str:
    """Return a text's words, in which each character of a script without spaces is a word.

    Like Whisper's basic normaliser, it applies NFKC, makes letters small, and replaces punctuation
    and symbols by spaces. Unlike that, it keeps a combining mark (Unicode's category M) on its
    letter. A character is a letter with its marks. What is not visible is removed: variation
    selectors, joiners and other characters of the category Cf, and the tatweel, which only
    stretches Arabic.
    """
    kept: list[str] = []
    last = "space"  # the kind of the character before that is no mark
    for character in _compatible(text):
        kind = _kind(character)
        if kind == "unseen":
            continue
        if kind == "mark":
            kept.append(" " if last == "space" else character)
            continue
        if "character" in (kind, last):
            kept.append(" ")
        kept.append(" " if kind == "space" else character)
        last = kind
    return "".join(kept)


def _kind(character: str) -> str:
    """Return what `separated` takes a character for."""
    category = unicodedata.category(character)
    if character == _ZERO_WIDTH_SPACE or category[0] in "SPZ" or category == "Cc":
        return "space"
    if category == "Cf" or _UNSEEN.match(character):
        return "unseen"
    if category[0] == "M":
        return "mark"
    return "character" if _IS_UNSPACED.match(character) else "letter"


def joined(text: str) -> str:
    """Return a normalised text without the spaces that `separated` put between characters."""
    return text if text.isascii() else _BETWEEN.sub("", text)


def same_letters(one: str, other: str) -> bool:
    """Return whether two texts differ at most in case, spaces, punctuation and what is not visible.

    Normalisers map different words to one, as English's does with "two" and "2", "o" and "o" with
    an accent. Two texts for which this is False are different texts, whatever the normaliser says.
    """
    return one == other or _letters(one) == _letters(other)


def _letters(text: str) -> str:
    return "".join(
        character
        for character in _compatible(text)
        if unicodedata.category(character)[0] not in "ZCP" and not _UNSEEN.match(character)
    )


def _compatible(text: str) -> str:
    """Return a text in NFKC and small letters; a small i has one dot, whatever its capital had."""
    return unicodedata.normalize("NFKC", text.lower()).lower().replace("i\u0307", "i")


def _applied(apply: Callable[[str], str], text: str, fillers: re.Pattern[str] | None = None) -> str:
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
