"""The vocabulary of a SpeechBrain tokenizer: SentencePiece's model, or CTCTextEncoder's labels.

Both become the vocabulary of transformers' CTC tokenizer, whose tokens are joined to text. A piece
of SentencePiece begins a word with U+2581, which is a space in text.
Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto and
`CategoricalEncoder.save` of speechbrain.dataio.encoder.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError
from exporter.formats.protobuf import Budget, DamagedError, Field, Wire
from exporter.system.files import read_small

_MAX_BYTES = 8 << 20
_MAX_LABEL = 512
_SPACE = "\u2581"
_SEPARATOR, _ARROW = "================\n", " => "
_EXTRAS = ("blank_label", "unk_label", "bos_label", "eos_label")
# Fields of ModelProto, of its pieces, and of NormalizerSpec; kinds of pieces.
_PIECE, _DENORMALIZER = 1, 5
_TEXT, _KIND = 1, 3
_CHARSMAP = 2
_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by their text, and those that are never written."""

    tokens: Mapping[str, int]
    silent: tuple[str, ...]

    def settings(self, blank: int) -> dict[str, Any]:
        """Return the settings of transformers' tokenizer, in which the blank is the padding.

        Args:
            blank: The blank's token.
        """
        pad = next(word for word, token in self.tokens.items() if token == blank)
        others = [word for word in self.silent if word != pad]
        return {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": pad,
            **dict.fromkeys(("unk_token", "bos_token", "eos_token"), pad),
            "additional_special_tokens": others,
            "word_delimiter_token": " ",
            "replace_word_delimiter_char": " ",
            "clean_up_tokenization_spaces": False,
            "do_lower_case": False,
        }


def sentencepiece(path: Path) -> Vocabulary:
    """Read the pieces of a SentencePiece model.

    Raises:
        CheckpointError: It is none, or has pieces of single bytes.
    """
    data = _content(path)
    try:
        pieces = _pieces(Wire(data, Budget(4 * len(data))))
    except DamagedError as error:
        raise _wrong(path, f"no SentencePiece model ({error})") from error
    return _vocabulary(
        path,
        [(text.replace(_SPACE, " "), token) for token, (text, _) in enumerate(pieces)],
        [text.replace(_SPACE, " ") for text, kind in pieces if kind in (_UNKNOWN, _CONTROL)],
    )


def _pieces(wire: Wire) -> list[tuple[str, int]]:
    """Return the text and the kind of all pieces, in order."""
    found = []
    for part in wire.fields(wire.whole()):
        if part.number == _PIECE:
            found.append(_piece(wire, part))
        elif part.number == _DENORMALIZER and any(
            each.number == _CHARSMAP and each.end > each.begin for each in wire.fields(part)
        ):
            msg = "it replaces characters when it decodes, which is not supported"
            raise DamagedError(msg)
    return found


def _piece(wire: Wire, part: Field) -> tuple[str, int]:
    text, kind = "", 1
    for each in wire.fields(part):
        if each.number == _TEXT:
            text = wire.text(each)
        elif each.number == _KIND:
            kind = each.value
    if kind == _BYTE:
        msg = "pieces of single bytes are not supported"
        raise DamagedError(msg)
    return text, kind


def text_encoder(path: Path) -> Vocabulary:
    """Read the labels of a CTCTextEncoder, lines of Python literals that are only parsed.

    Raises:
        CheckpointError: It is none, or a label is no text.
    """
    try:
        text = _content(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong(path, "no text") from error
    labels, _, extras = text.partition(_SEPARATOR)
    words = [_label(path, line) for line in labels.splitlines()]
    named = dict(_label(path, line) for line in extras.splitlines())
    return _vocabulary(
        path,
        [(word, _index(path, token)) for word, token in words],
        [_literal(path, named[each]) for each in _EXTRAS if each in named],
    )


def _label(path: Path, line: str) -> tuple[str, str]:
    """Return the literal left of an arrow, and what is right of it."""
    key, arrow, value = line.rpartition(_ARROW)
    if not arrow or len(line) > _MAX_LABEL:
        raise _wrong(path, f"no labels of SpeechBrain's CTCTextEncoder ({line[:40]!r})")
    return _literal(path, key), value


def _literal(path: Path, literal: str) -> str:
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise _wrong(path, f"{literal[:40]!r} is no label") from error
    if not isinstance(value, str):
        raise _wrong(path, f"the label {literal[:40]!r} is no text")
    return value


def _index(path: Path, token: str) -> int:
    if not (token.isascii() and token.isdecimal()) or len(token) > 9:
        raise _wrong(path, f"{token[:40]!r} is no index of a label")
    return int(token)


def _vocabulary(path: Path, words: list[tuple[str, int]], silent: list[str]) -> Vocabulary:
    tokens = dict(words)
    if len(tokens) != len(words) or len({*tokens.values()}) != len(words):
        raise _wrong(path, "two tokens have one text, or one number")
    return Vocabulary(tokens, tuple(word for word in silent if word in tokens))


def _content(path: Path) -> bytes:
    return read_small(path, _MAX_BYTES, CheckpointError, "a tokenizer")


def _wrong(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: {reason}")
