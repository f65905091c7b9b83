"""The text of frames: repeats collapse, then blanks and special tokens are dropped.

Special tokens go after repeats collapsed, so that one of them between two equal letters keeps
both. transformers 4 with `skip_special_tokens` drops blanks first, and loses one of "hello"'s two.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from typing import Any

# What transformers' clean_up_tokenization replaces, in its order.
CLEANED = (
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

    def pieces(self, tokens: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Yield parts of the text, before it is stripped and cleaned, and the tokens of each."""
        yield from ((self.spelled[token], 1) for token in tokens)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, as transformers' tokenizer joins them."""
        text = "".join(self.spelled[token] for token in tokens).strip()
        text = text.lower() if self.lower else text
        for old, new in CLEANED if self.cleaned else ():
            text = text.replace(old, new)
        return text


@dataclass(frozen=True)
class Pieces(Alphabet):
    """Pieces of words, which a `tokenizer.json` says how to join.

    Attributes:
        joiner: The tokenizer of the library `tokenizers`.
    """

    joiner: Any = None

    def pieces(self, tokens: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Yield parts of the text, each as soon as its tokens spell whole letters."""
        stream: Any = import_module("tokenizers.decoders").DecodeStream(skip_special_tokens=True)
        held = 0
        for token in tokens:
            held += 1
            text = stream.step(self.joiner, token)
            if text is not None:
                yield text, held
                held = 0

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, as the tokenizer joins them."""
        text: str = self.joiner.decode(list(tokens), skip_special_tokens=True).strip()
        for old, new in CLEANED if self.cleaned else ():
            text = text.replace(old, new)
        return text
