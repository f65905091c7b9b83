"""Tokens to text, with what a tokenizer says of its vocabulary asked only once.

transformers' tokenizers list their special tokens anew at every call, which costs more than the
text does.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary


class Speller:
    """What `transcribe` needs of a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._special = frozenset(tokenizer.all_special_ids)
        self._first_timestamp = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1

    def spoken(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that are text: neither special nor times."""
        return [i for i in tokens if i < self._first_timestamp and i not in self._special]


_spellers: WeakKeyDictionary[Any, Speller] = WeakKeyDictionary()


def speller(tokenizer: Any) -> Speller:
    """The tokenizer's speller, made at its first use."""
    if tokenizer not in _spellers:
        _spellers[tokenizer] = Speller(tokenizer)
    return _spellers[tokenizer]
