"""Token ids to text and back: a byte-level vocabulary, as tokenizers and transformers read it."""

import re
import unicodedata
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from exporter.errors import IntegrityError, RecipeError
from exporter.runtime.whisper.settings import read_values

_TOKENIZER, _CONFIG, _SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
_VOCABULARY, _MERGES, _ADDED = "vocab.json", "merges.txt", "added_tokens.json"
_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens")
_TIME = re.compile(r"<\|(\d+\.\d+)\|>")
_MERGE, _PAIR = "\n", "\0"  # between merges, and the two names of one: no letters of GPT-2's
_NO_TIMESTAMPS = "<|notimestamps|>"
# GPT-2's pattern for words, as tokenizers' `ByteLevel` has it, on letters that stand for classes:
# L letters, N numbers, S space of any kind, o others, and the space itself.
_WORD = re.compile(r" ?L+| ?N+| ?o+|[ S]+(?![^ S])|[ S]+")
_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
# What transformers replaces if `clean_up_tokenization_spaces` is set, in this order.
_CLEANED = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


class Text:
    """A checkpoint's tokenizer.

    Words that were added to it are text, though their ids are above the timestamps'.
    """

    def __init__(
        self, tokenizer: Mapping[str, Any], special: Iterable[str] = (), *, clean_up: bool = False
    ) -> None:
        """Take a tokenizer's content.

        Args:
            tokenizer: The content of `tokenizer.json`.
            special: Further tokens that are special, by name.
            clean_up: Whether spaces before punctuation are removed.
        """
        vocabulary: Mapping[str, int] = tokenizer["model"]["vocab"]
        # In one piece, as only prompts need them: a hundred thousand strings take much memory.
        self._merges = _MERGE.join(map(_merge, tokenizer["model"]["merges"]))
        added = {one["content"]: one for one in tokenizer.get("added_tokens") or ()}
        self._added = {name: int(one["id"]) for name, one in added.items()}
        named = {name for name, one in added.items() if one.get("special")}.union(special)
        numbers = {name: self._added.get(name, vocabulary.get(name)) for name in named}
        self._special = {number for number in numbers.values() if number is not None}
        self._clean_up = clean_up
        added_names = {number: name for name, number in self._added.items()}
        self._names: ChainMap[int, str] = ChainMap(
            added_names, {number: name for name, number in vocabulary.items()}
        )
        times = self._added.get(_NO_TIMESTAMPS, vocabulary.get(_NO_TIMESTAMPS))
        self._times = len(self._names) if times is None else times + 1
        self._words = {
            number
            for number, name in self._names.items()
            if number >= self._times and not _TIME.fullmatch(name)
        }

    @classmethod
    def read(cls, folder: Path) -> "Text":
        """Read the tokenizer's files of an artifact.

        Raises:
            IntegrityError: One is missing or not readable.
        """
        config = _optional(folder / _CONFIG)
        whole = folder / _TOKENIZER
        content = read_values(whole) if whole.is_file() else _from_parts(folder)
        stored = config.get("added_tokens_decoder") or {}
        named = {number: one["content"] for number, one in stored.items() if one.get("special")}
        special = [*named.values(), *_named(config), *_named(_optional(folder / _SPECIAL))]
        clean_up = config.get("clean_up_tokenization_spaces") is True
        try:
            return cls(content, special, clean_up=clean_up)
        except (KeyError, TypeError) as error:
            msg = f"{folder}: its tokenizer has no {error}: build the artifact again"
            raise IntegrityError(msg) from error

    def spoken(self, ids: Iterable[int]) -> list[int]:
        """Return the tokens that have text: neither special, nor timestamps, nor unknown."""
        return [
            token
            for token in ids
            if (token < self._times or token in self._words) and token not in self._special
        ]

    @cached_property
    def silent(self) -> list[int]:
        """The ids of all tokens without text, in order."""
        return sorted(self._names.keys() - self.spoken(self._names))

    @cached_property
    def ids(self) -> list[int]:
        """The ids of all tokens, in order."""
        return sorted(self._names)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens as transformers decodes it, stripped.

        Special tokens and timestamps are left out, and so are ids that are no token.
        """
        names = (self._names.get(token) for token in ids if token not in self._special)
        raw = b"".join(map(_bytes_of, filter(None, names)))
        text = raw.decode("utf-8", errors="replace")
        for found, put in _CLEANED if self._clean_up else ():
            text = text.replace(found, put)
        return _TIME.sub("", text).strip()

    def spelled(self, ids: Iterable[int]) -> str:
        """Return the text of tokens as it is, with spaces around it, and unknown bytes marked."""
        names = (self._names.get(token) for token in ids)
        return b"".join(map(_bytes_of, filter(None, names))).decode("utf-8", errors="replace")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around them.

        Raises:
            RecipeError: The text names a special token.
        """
        tokens: list[int] = []
        for piece in self._split_at_added(text):
            number = self._added.get(piece)
            if number is None:
                words = (word for word in _words(piece))
                tokens += [token for word in words for token in self._merged(word)]
            elif number in self._special:
                msg = f"{piece!r} in a prompt is a special token: leave it out"
                raise RecipeError(msg)
            else:
                tokens.append(number)
        return tokens

    def _split_at_added(self, text: str) -> Iterator[str]:
        yield from filter(None, self._added_pattern(text))

    @cached_property
    def _added_pattern(self) -> Callable[[str], Sequence[str]]:
        names = sorted(filter(None, self._added), key=len, reverse=True)
        if not names:
            return lambda text: [text]
        pattern = re.compile(f"({'|'.join(map(re.escape, names))})")
        return pattern.split

    @cached_property
    def _vocabulary(self) -> Mapping[str, int]:
        return {name: number for number, name in self._names.maps[1].items()}

    @cached_property
    def _ranks(self) -> Mapping[tuple[str, str], int]:
        merges = self._merges.split(_MERGE) if self._merges else []
        pairs = (merge.split(_PAIR) for merge in merges)
        return {(pair[0], pair[1]): rank for rank, pair in enumerate(pairs)}

    def _merged(self, word: str) -> list[int]:
        """Merge the bytes of a word, the pair with the lowest rank first."""
        pieces = [_LETTERS[byte] for byte in word.encode("utf-8")]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            pieces = list(_joined(pieces, best))
        return [self._vocabulary[piece] for piece in pieces if piece in self._vocabulary]


def _merge(merge: str | Sequence[str]) -> str:
    """Return a merge in one piece, from either form that `tokenizer.json` has."""
    return _PAIR.join(merge.split(" ") if isinstance(merge, str) else merge)


def _joined(pieces: Sequence[str], pair: tuple[str, str]) -> Iterator[str]:
    """Yield pieces with every occurrence of a pair joined."""
    place = 0
    while place < len(pieces):
        if tuple(pieces[place : place + 2]) == pair:
            yield pair[0] + pair[1]
            place += 2
        else:
            yield pieces[place]
            place += 1


def _words(text: str) -> Iterator[str]:
    """Split text before it is merged, as GPT-2 does."""
    classes = "".join(map(_class, text))
    place = 0
    while place < len(text):
        found = _CONTRACTION.match(text, place) or _WORD.match(classes, place)
        assert found is not None  # every class is in one of the alternatives
        yield text[place : found.end()]
        place = found.end()


def _class(letter: str) -> str:
    if letter == " ":
        return letter
    if letter.isspace() and letter not in "\x1c\x1d\x1e\x1f":  # which Unicode's White_Space lacks
        return "S"
    kind = unicodedata.category(letter)[0]
    return kind if kind in "LN" else "o"


def _letters() -> dict[int, str]:
    """Return GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    shifted = {byte: chr(256 + place) for place, byte in enumerate(others)}
    return {byte: chr(byte) for byte in plain} | shifted


_LETTERS = _letters()
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def _bytes_of(name: str) -> bytes:
    """Return a token's bytes; a name with other letters than GPT-2's is text itself."""
    try:
        return bytes(map(_BYTES.__getitem__, name))
    except KeyError:
        return name.encode("utf-8")


def _from_parts(folder: Path) -> dict[str, Any]:
    """Return what `tokenizer.json` would hold, from the files of transformers' slower class."""
    try:
        lines = (folder / _MERGES).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{folder / _MERGES}: {error}: build the artifact again"
        raise IntegrityError(msg) from error
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    config, vocabulary = _optional(folder / _CONFIG), read_values(folder / _VOCABULARY)
    added = {
        number: {"id": number, "content": name, "special": False}
        for name, number in _optional(folder / _ADDED).items()
    }
    for number, one in (config.get("added_tokens_decoder") or {}).items():
        added[int(number)] = {**one, "id": int(number)}
    return {
        "model": {"vocab": vocabulary, "merges": merges},
        "added_tokens": list(added.values()),
    }


def _optional(path: Path) -> dict[str, Any]:
    return read_values(path) if path.is_file() else {}


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens that a file names, as text or as objects."""
    for key in _NAMES:
        value = values.get(key)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (str, Mapping)):
                yield one if isinstance(one, str) else str(one["content"])
