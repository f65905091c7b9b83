"""The tokenizer's file for loaders without transformers: `tokenizer.json`, which decodes as we do.

Checkpoints have none, because transformers' tokenizer for CTC never writes it. The format is that
of the library tokenizers, which transformers.js reads too. Its own decoder for CTC collapses
repeats and drops blanks. The steps around it replace whole tokens before, so that a special token
between two equal letters keeps both, and letters afterwards. No token is marked as special: those
are dropped before repeats collapse where `skip_special_tokens` is set.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from exporter.families.ctc.decoding.text import CLEANED, alphabet_of

_SYNTAX = re.compile(r"[\^$\\.*+?()\[\]{}|/]")  # what JavaScript lets a pattern escape


def tokenizer_json(tokenizer: Any) -> bytes:
    """Return the content of `tokenizer.json`.

    Args:
        tokenizer: transformers' tokenizer of the checkpoint.
    """
    words = sorted(tokenizer.get_vocab().items(), key=lambda each: each[1])
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [*_decoders(tokenizer)]},
        "model": {"type": "WordLevel", "vocab": dict(words), "unk_token": tokenizer.unk_token},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False).encode() + b"\n"


def _decoders(tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps from the likeliest token of each frame to a text."""
    alphabet, delimiter = alphabet_of(tokenizer), tokenizer.word_delimiter_token
    for word, token in tokenizer.get_vocab().items():
        if token not in alphabet.spelled and word != tokenizer.pad_token:
            yield _replaced({"Regex": _whole(word)}, "")
        elif word == delimiter and alphabet.spelled.get(token) not in (None, word):
            yield _replaced({"Regex": _whole(word)}, alphabet.spelled[token])
    # With `cleanup` it would also remove spaces before punctuation.
    yield {
        "type": "CTC",
        "pad_token": tokenizer.pad_token,
        "word_delimiter_token": delimiter or "",
        "cleanup": False,
    }
    yield {"type": "Fuse"}
    yield _replaced({"Regex": "^ +| +$"}, "")  # the library's `Strip` panics on nothing but spaces
    letters = sorted(set("".join(alphabet.spelled.values())))
    for letter in letters if alphabet.lower else ():
        if letter.lower() != letter:
            yield _replaced({"String": letter}, letter.lower())
    for old, new in CLEANED if alphabet.cleaned else ():
        yield _replaced({"String": old}, new)


def _replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _whole(word: str) -> str:
    """Return the pattern of a token that is this word."""
    return f"^{_SYNTAX.sub(lambda found: chr(92) + found.group(), word)}$"
