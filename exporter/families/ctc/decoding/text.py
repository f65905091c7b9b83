"""The text of frames: repeats collapse, then blanks and special tokens are dropped.

Special tokens go after repeats collapsed, so that one of them between two equal letters keeps
both. transformers 4 with `skip_special_tokens` drops blanks first, and loses one of "hello"'s two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

# What transformers' clean_up_tokenization replaces, in its order.
_CLEANED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


@dataclass(frozen=True)
class Alphabet:
    """What frames are spelled with.

    Attributes:
        spelled: The text of each token that has one, by its id; a word's end is a space here.
        lower: Whether text is made lower case.
        cleaned: Whether spaces before punctuation are removed.
    """

    spelled: Mapping[int, str]
    lower: bool = False
    cleaned: bool = False

    def tokens(self, frames: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of the likeliest token of each frame."""
        return tuple(token for token, _ in groupby(frames) if token in self.spelled)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, as transformers' tokenizer joins them."""
        text = "".join(self.spelled[token] for token in tokens).strip()
        text = text.lower() if self.lower else text
        for old, new in _CLEANED if self.cleaned else ():
            text = text.replace(old, new)
        return text


def alphabet_of(tokenizer: Any) -> Alphabet:
    """Return the alphabet of a tokenizer, created at first use."""
    if tokenizer not in _alphabets:
        _alphabets[tokenizer] = _alphabet(tokenizer)
    return _alphabets[tokenizer]


_alphabets: WeakKeyDictionary[Any, Alphabet] = WeakKeyDictionary()


def _alphabet(tokenizer: Any) -> Alphabet:
    delimiter = tokenizer.word_delimiter_token
    silent = set(tokenizer.all_special_tokens) - {delimiter} | {tokenizer.pad_token}
    spelled = {
        token: tokenizer.replace_word_delimiter_char if word == delimiter else word
        for word, token in tokenizer.get_vocab().items()
        if word not in silent
    }
    return Alphabet(
        spelled, bool(tokenizer.do_lower_case), bool(tokenizer.clean_up_tokenization_spaces)
    )
