"""Split tokens into words.

Source: `Tokenizer.split_to_word_tokens` of openai-whisper.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.runtime.whisper.text import Text

UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages whose words have no spaces between them."""

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@dataclass
class Piece:
    """A text and its tokens."""

    text: str
    tokens: list[int]


def words_of(text: Text, tokens: Sequence[int], language: str | None) -> list[Piece]:
    """Split tokens into words, each with the space before it.

    In languages that write no spaces, and so need a dictionary, letters stand for words.

    Args:
        text: The tokenizer.
        tokens: Tokens that have text.
        language: The code of their language; None: one with spaces.
    """
    letters = letters_of(text, tokens)
    if language in UNSPACED:
        return letters
    words: list[Piece] = []
    for one in letters:
        begins = one.text.startswith(" ") or one.text.strip() in string.punctuation
        if begins or not words:
            words.append(one)
        else:
            words[-1].text += one.text
            words[-1].tokens += one.tokens
    return words


def letters_of(text: Text, tokens: Sequence[int]) -> list[Piece]:
    """Split tokens wherever a letter is whole: some are spelled by several tokens."""
    whole = text.spelled(tokens)
    pieces: list[Piece] = []
    held: list[int] = []
    done = 0
    for token in tokens:
        held.append(token)
        found = text.spelled(held)
        place = done + found.find(_UNKNOWN)
        # What no token completes is unknown in the whole text as well.
        if _UNKNOWN not in found or whole[place : place + 1] in (_UNKNOWN, ""):
            pieces.append(Piece(found, held))
            done += len(found)
            held = []
    if held:
        pieces.append(Piece(text.spelled(held), held))
    return pieces
