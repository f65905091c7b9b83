"""Text of strangers made harmless before it is shown, and words about it for messages."""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable

_NOT_PLAIN = re.compile(r"[^ -~]")
# Letters that look like nothing, though Python calls them printable.
_BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
# Between letters they shape or divide words: ZWNJ in Persian, ZWJ in Hindi and in emoji, the
# zero-width space in Khmer and Thai, the vowel separator in Mongolian.
_JOINERS = re.compile("[\u200b\u200c\u200d\u180e]")
_JOINED = re.compile(
    "[\u0600-\u109f\u1780-\u18af"  # Arabic to Myanmar, Khmer, Mongolian
    "\ua800-\uabff\ufb50-\ufefe"  # further Indic scripts, Arabic in older encodings
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f]"  # Brahmi and its descendants, Adlam
)
_ZWJ, _EMOJI_STYLE = "\u200d", "\ufe0f"
_VARIANTS = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Signs of Arabic, Syriac and Kaithi that stand below or above a number, so they are seen.
_NUMBER_SIGNS = (
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_MARKUP = re.compile(r"[\\`*_\[\]<>|~&$]|(?<=http):|(?<=https):|(?<=www)\.")
_MOST_SHOWN = 80


def python_escape(character: str) -> str:
    """Return a character as Python writes it in ASCII, like `\\x1b`; also a byte of a name."""
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def harmless(text: str, escape: Callable[[str], str] = python_escape) -> str:
    """Return a text in one line that cannot rewrite, reorder or hide what stands around it.

    Escaped are control characters, line ends, bidirectional controls, invisible characters, lone
    surrogates and unassigned code points. What scripts need stays: all letters, combining marks
    and spaces, and joiners beside a letter that they join.

    Args:
        text: Any text.
        escape: Writes one character in ASCII.
    """

    def shown(match: re.Match[str]) -> str:
        return match[0] if _is_harmless(text, match.start()) else escape(match[0])

    return _NOT_PLAIN.sub(shown, text)


def _is_harmless(text: str, place: int) -> bool:
    character = text[place]
    before, after = text[max(0, place - 1) : place], text[place + 1 : place + 2]
    if _JOINERS.match(character):
        return _is_joined(before, character) or _is_joined(after, character)
    if _VARIANTS.match(character):
        return before > " " and before.isprintable() and not _VARIANTS.match(before)
    if unicodedata.category(character) == "Zs" or character in _NUMBER_SIGNS:
        return True
    return character.isprintable() and character not in _BLANK_LETTERS


def _is_joined(neighbour: str, joiner: str) -> bool:
    """Return True for a letter or mark of a script with joiners, and for ZWJ beside an emoji."""
    if not neighbour or not neighbour.isprintable():
        return False
    if _JOINED.match(neighbour):
        return True
    emoji = unicodedata.category(neighbour) in ("So", "Sk") or neighbour == _EMOJI_STYLE
    return joiner == _ZWJ and emoji


def in_markdown(text: str) -> str:
    """Return a text in one line that Markdown and HTML show as it is, harmless."""
    return _MARKUP.sub(r"\\\g<0>", harmless(text))


def listed(names: Iterable[str]) -> str:
    """Return the first three names in one line, each harmless and cut at 80 characters."""
    first, *others = sorted(names)
    shown = [harmless(name)[:_MOST_SHOWN] for name in (first, *others[:2])]
    return ", ".join(shown) + (" ..." if len(others) > 2 else "")


def width_of(text: str) -> int:
    """Return how many columns of a terminal a harmless text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar to `word`; None if none is close."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def described(value: object) -> str:
    """Return what a value of JSON or YAML is, in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, list | tuple):
        return "a list"
    return "a mapping" if isinstance(value, dict) else str(value)[:40]
