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

from exporter.runtime.ctc.text import CLEANED
from exporter.runtime.ctc.tokens import Tokens

_SYNTAX = re.compile(r"[\^$\\.*+?()\[\]{}|/]")  # what JavaScript lets a pattern escape


def tokenizer_json(tokens: Tokens) -> bytes:
    """Return the content of `tokenizer.json`.

    Args:
        tokens: The tokens of the checkpoint.
    """
    words = sorted(tokens.words.items(), key=lambda each: each[1])
    whole: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [*_decoders(tokens)]},
        "model": {"type": "WordLevel", "vocab": dict(words), "unk_token": tokens.unknown},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False).encode() + b"\n"


def _decoders(tokens: Tokens) -> Iterator[dict[str, Any]]:
    """Yield the steps from the likeliest token of each frame to a text."""
    alphabet, delimiter = tokens.alphabet(), tokens.delimiter
    for word, token in tokens.words.items():
        if token not in alphabet.spelled and word != tokens.blank:
            yield _replaced({"Regex": _whole(word)}, "")
        elif word == delimiter and alphabet.spelled.get(token) not in (None, word):
            yield _replaced({"Regex": _whole(word)}, alphabet.spelled[token])
    # With `cleanup` it would also remove spaces before punctuation.
    yield {
        "type": "CTC",
        "pad_token": tokens.blank,
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
