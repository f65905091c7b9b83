"""Hold a Whisper's configs and tokenizer to one another: values that no Whisper can have.

Each file alone is held to `config_limits`. What is told here would otherwise end in endless text,
in no text, or deep inside transformers. All of it holds for every checkpoint of OpenAI, for
distilled and English-only ones, and for those with words or languages added.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from exporter.formats.config_json import read_json

_FED = (
    *("decoder_start_token_id", "no_timestamps_token_id", "prev_sot_token_id"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
_EXTRACTORS = {"dither": 0.0, "padding_value": 0.0, "padding_side": "right"}
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
# OpenAI's multilingual vocabulary has an empty token, which some configs have for padding.
_MAY_BE_EMPTY = ("pad_token_id", "bos_token_id")
_NAMED = {
    "eos_token_id": "<|endoftext|>",
    "decoder_start_token_id": "<|startoftranscript|>",
    "no_timestamps_token_id": "<|notimestamps|>",
    "prev_sot_token_id": "<|startofprev|>",
}
_REQUIRED = ("<|startoftranscript|>", "<|notimestamps|>")
_CONTROL = re.compile(r"<\|.*\|>")
_TIME = re.compile(r"<\|\d+\.\d\d\|>")

Values = Mapping[str, Any]


def wrong_numbers(config: Values, generation: Values) -> Iterator[str]:
    """Yield what a generation config says that a model of this config cannot mean.

    Args:
        config: What is used of `config.json`.
        generation: What is used of `generation_config.json`.
    """
    size, positions = config["vocab_size"], config["max_target_positions"]
    for name, token in (*_fed(generation), *_suppressed(generation)):
        if not 0 <= token < size:
            yield f"{name!r:.60} is token {token}, and the model has {size}"
    never = set(generation.get("suppress_tokens") or ())
    ends = _listed(generation.get("eos_token_id"))
    if ends and never.issuperset(ends):
        yield f"suppress_tokens has token {ends[0]}, the end: decoding would never end"
    if len(never.union(generation.get("begin_suppress_tokens") or ())) >= size:
        yield "suppress_tokens and begin_suppress_tokens leave no token to begin with"
    longest = generation.get("max_length")
    if longest is not None and longest > positions:
        yield f"max_length is {longest}, and the model decodes at most {positions} tokens"
    heads = generation.get("alignment_heads") or ()
    if any(len(pair) != 2 for pair in heads):
        yield "alignment_heads are no pairs of a layer and a head"


def own_alignment_heads(config: Values, heads: list[list[int]]) -> list[list[int]]:
    """Return those heads that the model has.

    Distilled checkpoints such as kotoba-whisper name those of their teacher's decoder, which has
    more layers: transformers would fail at word timestamps.
    """
    layers, most = config["decoder_layers"], config["decoder_attention_heads"]
    return [[layer, head] for layer, head in heads if layer < layers and head < most]


def wrong_tokens(config: Values, generation: Values, extractor: Any, tokenizer: Any) -> list[str]:
    """Return in what a feature extractor or a tokenizer does not fit a model.

    Args:
        config: What is used of `config.json`.
        generation: What is used of `generation_config.json`.
        extractor: The `WhisperFeatureExtractor`.
        tokenizer: The `WhisperTokenizerFast`.
    """
    frames = 2 * config["max_source_positions"]  # the second convolution halves them
    wrong = []
    if extractor.feature_size != config["num_mel_bins"]:
        wrong.append(f"{extractor.feature_size} mel bins, the model {config['num_mel_bins']}")
    if extractor.nb_max_frames != frames:
        wrong.append(f"a window of {extractor.nb_max_frames} frames, the model {frames}")
    for name, usual in _EXTRACTORS.items():
        if getattr(extractor, name) != usual:
            wrong.append(
                f"{name} {getattr(extractor, name)!r:.40}, and only {usual!r} is supported"
            )
    if len(tokenizer) > config["vocab_size"]:
        wrong.append(f"{len(tokenizer)} tokens, the model {config['vocab_size']}")
    number_of = tokenizer.backend_tokenizer.token_to_id  # not a vocabulary of 50,000 words
    wrong += [f"no {token}" for token in _REQUIRED if number_of(token) is None]
    for found in (_other_ids(number_of, generation), _no_control(tokenizer, generation)):
        wrong += list(found)[:1]
    return wrong


def wrong_words(folder: Path, config: Values, generation: Values, tokenizer: Any) -> list[str]:
    """Return what is wrong in a whole vocabulary, also in files for other loaders.

    This package reads neither `vocab.json` nor `merges.txt` beside a `tokenizer.json`.

    Args:
        folder: The folder of the files.
        config: What is used of `config.json`.
        generation: What is used of `generation_config.json`.
        tokenizer: The `WhisperTokenizerFast`.
    """
    known = tokenizer.get_vocab()
    told = list(_vocabulary(known, tokenizer, generation))[:1]
    return told + _other_words(folder, known, config)


def _other_words(folder: Path, known: Mapping[str, int], config: Values) -> list[str]:
    path, told = folder / "vocab.json", []
    if path.is_file():
        told = [
            f"{path.name} says that {token!r:.40} is number {number!r:.40}"
            for token, number in read_json(path).items()
            if not isinstance(number, int)
            or known.get(token, number) != number
            or not 0 <= number < config["vocab_size"]
        ]
    merges = folder / "merges.txt"
    if merges.is_file() and not any(
        line.strip() and not line.startswith("#version") for line in _beginning(merges)
    ):
        told.append(f"{merges.name} has no merge, so text would become single letters")
    return told[:1]


def _beginning(path: Path) -> list[str]:
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8", errors="replace").splitlines()


def _fed(generation: Values) -> Iterator[tuple[str, int]]:
    """Yield every token that decoding feeds to the model, with its name."""
    named = {name: generation.get(name) for name in _FED}
    named |= {**(generation.get("lang_to_id") or {}), **(generation.get("task_to_id") or {})}
    for name, value in named.items():
        yield from ((name, token) for token in _listed(value))


def _suppressed(generation: Values) -> Iterator[tuple[str, int]]:
    for name in _SUPPRESSED:
        yield from ((name, token) for token in generation.get(name) or ())


def _listed(value: Any) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _other_ids(number_of: Callable[[str], int | None], generation: Values) -> Iterator[str]:
    """Yield the tokens whose ids in tokenizer and model differ.

    Ids of an English-only tokenizer differ by one from those of a multilingual model.
    """
    tasks, languages = (generation.get(name) or {} for name in ("task_to_id", "lang_to_id"))
    numbered = {token: _listed(generation.get(name)) for name, token in _NAMED.items()}
    numbered |= {f"<|{task}|>": [number] for task, number in tasks.items()}
    numbered |= {token: [number] for token, number in languages.items()}
    for token, numbers in numbered.items():
        number = number_of(token)
        if numbers and number is not None and number not in numbers:
            yield f"its {token} is number {number}, the model's {numbers[0]}"


def _no_control(tokenizer: Any, generation: Values) -> Iterator[str]:
    """Yield what the model takes for a control token and the tokenizer for a word or a time."""
    special = set(tokenizer.all_special_ids)
    for name, token in _fed(generation):
        word = tokenizer.backend_tokenizer.id_to_token(token) if 0 <= token < 1 << 31 else None
        named = word is not None and _CONTROL.fullmatch(word) and not _TIME.fullmatch(word)
        empty = word in ("", None) and name in _MAY_BE_EMPTY
        if not named and not empty and token not in special:
            shown = "none of its tokens" if word is None else f"its {word!r:.40}, a word"
            yield f"the model's {name!r:.60} is token {token}, {shown}"


def _vocabulary(words: Mapping[str, int], tokenizer: Any, generation: Values) -> Iterator[str]:
    """Yield which words a tokenizer lacks, or never gives."""
    ends = _listed(generation.get("eos_token_id")) or [tokenizer.eos_token_id or 0]
    plain = range(min(ends))
    ids = set(words.values())
    # Some tokenizers leave out the empty token, which is the last before the end.
    holes = [number for number in plain[:-1] if number not in ids]
    if holes:
        yield f"it has no token {holes[0]}, and {len(holes):,} of {len(plain):,} words are missing"
    suppressed = {token for _, token in _suppressed(generation)}
    if plain and suppressed.issuperset(plain):
        yield "every word of it is suppressed"
