"""The tokens of a checkpoint, read from its tokenizer's files as transformers reads them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError, needing
from exporter.formats.config_json import is_regular_file, read_json
from exporter.runtime.ctc.text import Alphabet, Pieces

VOCABULARY, TOKENIZER, FAST = "vocab.json", "tokenizer_config.json", "tokenizer.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"

_USUAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_SINGLE = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token"),
    "mask_token",
)
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's tokens.

    Attributes:
        words: The id of each token, special ones included.
        stored: The ids in `vocab.json` or `tokenizer.json`.
        special: The special tokens.
        blank: The pad token, which is the blank; None if there is none.
        delimiter: The token of a word's end.
        unknown: The token of a letter that has none.
        settings: The content of `tokenizer_config.json`.
        joiner: The tokenizer of the library `tokenizers`, of pieces of words.
    """

    words: Mapping[str, int]
    stored: Mapping[str, Any]
    special: Sequence[str]
    blank: str | None
    delimiter: str | None
    unknown: str | None
    settings: Mapping[str, Any]
    joiner: Any = None

    def alphabet(self) -> Alphabet:
        """Return what frames are spelled with."""
        cleaned = bool(self.settings.get("clean_up_tokenization_spaces"))
        silent = {*self.special} - {self.delimiter} | {self.blank}
        words = {token: word for word, token in self.words.items() if word not in silent}
        if self.joiner is not None:
            return Pieces(words, cleaned=cleaned, joiner=self.joiner)
        space = self.settings.get("replace_word_delimiter_char", " ")
        spelled = {token: space if w == self.delimiter else w for token, w in words.items()}
        return Alphabet(spelled, bool(self.settings.get("do_lower_case")), cleaned)

    def disagreements(self, size: int, pad: int | None) -> Iterator[str]:
        """Yield what these tokens say that a model cannot mean.

        Args:
            size: The outputs of the head.
            pad: `pad_token_id` in `config.json`.
        """
        ids = list(self.stored.values())
        if not all(type(each) is int and each >= 0 for each in ids) or len({*ids}) < len(ids):
            yield "the ids in vocab.json are not distinct whole numbers"
            return
        blank = None if self.blank is None else self.words.get(self.blank)
        if blank is None or blank >= size:
            yield f"its pad token {self.blank!r:.40}, the blank, is none of {size} tokens"
        elif pad not in (None, blank):
            yield (
                f"its pad token {self.blank!r:.40}, the blank, is token {blank}, "
                f"and config.json has pad_token_id {pad}"
            )
        yield from self._other_sizes(size)

    def _other_sizes(self, size: int) -> Iterator[str]:
        """Yield tokens that the head lacks, except special ones, and outputs without a token.

        Tokenizers add `<s>` and `</s>` beyond the head of many checkpoints: these are never
        written.
        """
        written = (word for word in self.stored if word not in self.special)
        beyond = [word for word in written if self.stored[word] >= size]
        if beyond:
            yield (
                f"vocab.json has {beyond[0]!r:.40} as token {self.stored[beyond[0]]}, and the head "
                f"has {size} outputs"
            )
        unnamed = set(range(size)).difference(self.words.values())
        if unnamed:
            yield f"the head has {size} outputs, and none of its tokens is number {min(unnamed)}"


def read_tokens(folder: Path, *, pieces: bool) -> Tokens:
    """Read a checkpoint's or an artifact's tokens.

    Args:
        folder: Its folder.
        pieces: Whether the tokenizer is a `tokenizer.json` of pieces of words.

    Raises:
        CheckpointError: The files are missing, or are not those of such a tokenizer.
    """
    name = FAST if pieces else VOCABULARY
    if not is_small(folder / name):
        msg = f"{folder}: {name} is missing: copy it from the model that it was trained from"
        raise CheckpointError(msg)
    settings = _read(folder / TOKENIZER)
    named = dict(settings)
    if "added_tokens_decoder" not in settings:
        named |= _read(folder / SPECIAL)
    if pieces:
        return _pieces(folder / name, named)
    stored = read_json(folder / name)
    words = {**stored, **_added(folder, settings)}
    specials = {key: _content(named.get(key, usual)) for key, usual in _USUAL.items()}
    special = _special({**named, **specials})
    for word in special:
        words.setdefault(word, len(words))
    delimiter = _content(named.get("word_delimiter_token", "|"))
    blank, unknown = specials["pad_token"], specials["unk_token"]
    return Tokens(words, stored, special, blank, delimiter, unknown, named)


def _pieces(path: Path, named: Mapping[str, Any]) -> Tokens:
    """Read a tokenizer of pieces of words; only such a checkpoint needs the library."""
    with needing():
        library: Any = import_module("tokenizers")
    try:
        joiner = library.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library has no other
        reason = " ".join(str(error).split())[:200]
        msg = f"{path.parent}: the tokenizer cannot be read ({reason})"
        raise CheckpointError(msg) from error
    words = joiner.get_vocab(with_added_tokens=True)
    blank, unknown = (_content(named.get(key)) for key in ("pad_token", "unk_token"))
    return Tokens(words, words, _special(named), blank, None, unknown, named, joiner)


def _added(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that were added to the vocabulary, with their ids."""
    listed = settings.get("added_tokens_decoder")
    if listed is None:
        return {word: _number(token) for word, token in _read(folder / ADDED).items()}
    if not isinstance(listed, dict):
        raise _unreadable(folder / TOKENIZER, "added_tokens_decoder is no object")
    return {str(_content(word)): _number(token) for token, word in listed.items()}


def _special(named: Mapping[str, Any]) -> list[str]:
    """Return the special tokens in transformers' order, single ones and those in lists."""
    found = [named.get(key) for key in _SINGLE]
    for key in _LISTS:
        listed = named.get(key) or ()
        found += listed.values() if isinstance(listed, dict) else listed
    words = (_content(word) for word in found)
    return list(dict.fromkeys(word for word in words if word is not None))


def _content(token: Any) -> str | None:
    """Return the text of a token, which may be an object with flags."""
    if isinstance(token, dict):
        token = token.get("content")
    if token is None or isinstance(token, str):
        return token
    msg = f"{TOKENIZER}: the token {json.dumps(token)[:40]} is no text"
    raise CheckpointError(msg)


def _number(token: Any) -> int:
    """Return the id of an added token, which may be a key of an object."""
    if isinstance(token, str) and token.isdecimal() and len(token) < 10:
        return int(token)
    if type(token) is int:
        return token
    msg = f"{TOKENIZER}: the added token {token!r:.40} is no number"
    raise CheckpointError(msg)


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file that a folder may lack."""
    return read_json(path) if is_regular_file(path) else {}


def is_small(path: Path) -> bool:
    """Return whether there is a file, of a size that a CTC model's tokenizer has."""
    there = is_regular_file(path)
    if there and path.stat().st_size > _MAX_BYTES:
        msg = f"{path}: larger than {_MAX_BYTES} bytes: this is no CTC model's tokenizer"
        raise CheckpointError(msg)
    return there


def _unreadable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}: this is no CTC model's tokenizer")
