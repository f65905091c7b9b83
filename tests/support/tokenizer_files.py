"""The files of tokenizers as transformers 4 saves them, whichever release is installed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

END = "<|endoftext|>"
_START, _NO_TIMES = "<|startoftranscript|>", "<|notimestamps|>"
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word")


def byte_symbols() -> list[str]:
    """Return the symbols of the 256 bytes, in the order in which GPT-2's vocabularies have them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    plain += range(ord("®"), ord("ÿ") + 1)
    return [*map(chr, plain), *(chr(256 + place) for place in range(256 - len(plain)))]


def save_whisper_tokenizer(
    folder: Path,
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    special: Sequence[str],
    times: Sequence[str],
    max_tokens: int,
) -> Tokenizer:
    """Write all files of a tokenizer, and return it.

    Args:
        folder: Where to.
        vocabulary: The number of each symbol, ending with `END`.
        merges: The merges of byte-level pairs.
        special: The special tokens after `END`.
        times: The timestamps after those.
        max_tokens: The most tokens of a text.
    """
    tokenizer = Tokenizer(
        models.BPE(
            dict(vocabulary),
            list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = [AddedToken(name, special=True, normalized=False) for name in (END, *special)]
    tokenizer.add_special_tokens(named)
    tokenizer.add_tokens([AddedToken(time, special=False) for time in times])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START}:0 {_NO_TIMES}:0 $A:0 {END}:0",
        pair=f"{_START}:0 {_NO_TIMES}:0 $A:0 $B:1 {END}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (END, _NO_TIMES, _START)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "vocab.json", dict(vocabulary), indent=None)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    known = {token["content"]: token["id"] for token in added if token["content"] != END}
    _write(folder / "added_tokens.json", dict(sorted(known.items())))
    roles = [f"{role}_token" for role in ("bos", "eos", "pad", "unk")]
    full = {"content": END, **dict.fromkeys(_FLAGS, False)}
    listed = {"additional_special_tokens": list(special)}
    _write(folder / "special_tokens_map.json", {**listed, **dict.fromkeys(roles, full)})
    settings: dict[str, Any] = {
        "add_prefix_space": False,
        "added_tokens_decoder": {token.pop("id"): token for token in added},
        **listed,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": max_tokens,
        "tokenizer_class": "WhisperTokenizer",
        **dict.fromkeys(roles, END),
    }
    _write(folder / "tokenizer_config.json", settings)
    return tokenizer


def save_letters(folder: Path, letters: Sequence[str]) -> None:
    """Write the files of a CTC model's tokenizer, whose first four letters are special."""
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    _write(folder / "vocab.json", dict(sorted(vocabulary.items())))
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write(folder / "special_tokens_map.json", dict(sorted(roles.items())))
    flags = {"lstrip": True, "normalized": False, "rstrip": True, "single_word": False}
    settings: dict[str, Any] = {
        "added_tokens_decoder": {
            vocabulary[token]: {"content": token, **flags, "special": False}
            for token in roles.values()
        },
        "clean_up_tokenization_spaces": False,
        "do_lower_case": False,
        "extra_special_tokens": {},
        "model_max_length": int(1e30),
        "replace_word_delimiter_char": " ",
        "target_lang": None,
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "word_delimiter_token": "|",
        **roles,
    }
    _write(folder / "tokenizer_config.json", dict(sorted(settings.items())))


def _write(path: Path, content: object, indent: int | None = 2) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
