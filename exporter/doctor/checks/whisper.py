"""Checks of Whisper models: configs, tokenizer, weights and graphs that disagree."""

from collections.abc import Iterator, Mapping
from typing import Any

from exporter.doctor.detect import decoders, encoders
from exporter.doctor.finding import Finding, Level
from exporter.doctor.folder import Folder

_CONFIG, _GENERATION, _EXTRACTOR = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
)
# English-only Whispers have one token less than the smallest multilingual ones.
_ENGLISH_VOCABULARY = 51864
_PROMPT = ("is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id")
_ORIGINAL = "Copy the file from the original model on the Hub, in its latest revision."
_RE_EXPORT = "Use the files of one checkpoint, or export again from it."
_FIRST_CONVOLUTION = "model.encoder.conv1.weight"
_EMBEDDING = "model.decoder.embed_tokens.weight"


def _is_whisper(folder: Folder) -> bool:
    return folder.config().get("model_type") == "whisper"


def mel_bins(folder: Folder) -> Iterator[Finding]:
    """Compare the mel bins of extractor, config, weights and graphs."""
    values = {
        _EXTRACTOR: folder.number(_EXTRACTOR, "feature_size"),
        _CONFIG: folder.number(_CONFIG, "num_mel_bins"),
    }
    if not _is_whisper(folder):
        return
    for name, tensors in folder.tensors.items():
        if _FIRST_CONVOLUTION in tensors and len(tensors[_FIRST_CONVOLUTION].shape) > 1:
            values[name] = tensors[_FIRST_CONVOLUTION].shape[1]
    values |= {model.name: _feature_size(model.graph.inputs, 1) for model in encoders(folder)}
    yield from _differing(values, "mel bins", _RE_EXPORT)


def window(folder: Folder) -> Iterator[Finding]:
    """Compare the frames of a window in extractor, config and encoders."""
    if not _is_whisper(folder):
        return
    extractor, positions = folder.config(_EXTRACTOR), folder.number(_CONFIG, "max_source_positions")
    # The second convolution halves the number of frames.
    config = None if positions is None else 2 * positions
    values: dict[str, int | None] = {_EXTRACTOR: _frames(extractor), _CONFIG: config}
    values |= {model.name: _feature_size(model.graph.inputs, 2) for model in encoders(folder)}
    yield from _differing(values, "frames in a window", _RE_EXPORT)


def _frames(extractor: Mapping[str, Any]) -> int | None:
    """Return the frames that an extractor computes for a window."""
    keys = ("chunk_length", "sampling_rate", "hop_length")
    seconds, rate, hop = (n if type(n := extractor.get(key)) is int else 0 for key in keys)
    return seconds * rate // hop if seconds > 0 and rate > 0 and hop > 0 else None


def _feature_size(inputs: Mapping[str, tuple[int | str | None, ...]], axis: int) -> int | None:
    """Return a fixed size of the features, the only input of three axes that an encoder has."""
    for name, shape in inputs.items():
        if len(shape) == 3 and ("features" in name or name == "mel"):
            size = shape[axis]
            return size if isinstance(size, int) else None
    return None


def _differing(values: Mapping[str, int | None], what: str, fix: str) -> Iterator[Finding]:
    """Yield one finding if the known values differ, at the file with the rarest value."""
    known = {name: value for name, value in values.items() if value is not None}
    if len(set(known.values())) > 1:
        counts = list(known.values())
        where = min(known, key=lambda name: counts.count(known[name]))
        rest = ", ".join(f"{name} has {value}" for name, value in known.items() if name != where)
        yield Finding("problem", where, f"{known[where]} {what}, but {rest}", fix)


def vocabulary(folder: Folder) -> Iterator[Finding]:
    """Compare the vocabulary of tokenizer, config, weights and graphs."""
    size = folder.number(_CONFIG, "vocab_size")
    numbers = _tokens(folder)
    if size is None:
        return
    if numbers and max(numbers.values()) >= size:
        what = f"has token ids up to {max(numbers.values())}, config.json only {size} tokens"
        yield Finding("problem", _tokenizer(folder), what, _ORIGINAL)
    sizes: dict[str, int | None] = {_CONFIG: size}
    for model in decoders(folder):
        logits = model.graph.outputs.get("logits", ())
        if logits and isinstance(logits[-1], int):
            sizes[model.name] = logits[-1]
    for name, tensors in folder.tensors.items():
        if _EMBEDDING in tensors:
            sizes[name] = tensors[_EMBEDDING].shape[0]
    yield from _differing(sizes, "tokens in the vocabulary", _RE_EXPORT)


def _tokenizer(folder: Folder) -> str:
    return next((n for n in ("tokenizer.json", "vocab.json") if n in folder.configs), ".")


def _tokens(folder: Folder) -> dict[str, int]:
    """Return the tokenizer's ids by token, from tokenizer.json or the slow tokenizer's files."""
    whole = folder.config("tokenizer.json")
    model = whole.get("model")
    held = model.get("vocab") if isinstance(model, dict) else None
    ids = dict(held) if isinstance(held, dict) else {}
    added = whole.get("added_tokens")
    for each in added if isinstance(added, list) else ():
        if isinstance(each, dict):
            ids[str(each.get("content"))] = each.get("id")
    if not ids:
        ids = {**folder.config("vocab.json"), **folder.config("added_tokens.json")}
    return {token: number for token, number in ids.items() if isinstance(number, int)}


def token_numbers(folder: Folder) -> Iterator[Finding]:
    """Compare the special tokens' ids in tokenizer and generation config."""
    generation, tokens = folder.config(_GENERATION), _tokens(folder)
    wanted = {
        "<|startoftranscript|>": generation.get("decoder_start_token_id"),
        "<|notimestamps|>": generation.get("no_timestamps_token_id"),
        "<|endoftext|>": generation.get("eos_token_id"),
    }
    for key, form in (("lang_to_id", "{}"), ("task_to_id", "<|{}|>")):
        table = generation.get(key)
        wanted |= {form.format(k): v for k, v in table.items()} if isinstance(table, dict) else {}
    if not _is_whisper(folder):
        return
    wrong = [
        f"{token} is {number} here, {tokens[token]} in the tokenizer"
        for token, number in wanted.items()
        if isinstance(number, int) and tokens.get(token, number) != number
    ]
    if wrong:
        more = f" ({len(wrong)} tokens differ)" if len(wrong) > 1 else ""
        yield Finding("problem", _GENERATION, wrong[0] + more, _ORIGINAL)


def end_token(folder: Folder) -> Iterator[Finding]:
    """Compare the start and end tokens of the two configs."""
    for key in ("eos_token_id", "decoder_start_token_id"):
        ours, theirs = folder.number(_GENERATION, key), folder.number(_CONFIG, key)
        if None not in (ours, theirs) and ours != theirs:
            what = f"{key} is {ours}, but {theirs} in config.json"
            yield Finding("problem", _GENERATION, what, _ORIGINAL)


def prompt(folder: Folder) -> Iterator[Finding]:
    """Find generation configs without a prompt's tokens, written by an old transformers."""
    generation = folder.config(_GENERATION)
    if not _is_whisper(folder) or _GENERATION not in folder.configs:
        return
    english = generation.get("is_multilingual") is False or (
        "lang_to_id" not in generation
        and folder.number(_CONFIG, "vocab_size") == _ENGLISH_VOCABULARY
    )
    wanted = ("no_timestamps_token_id",) if english else _PROMPT
    missing = [key for key in wanted if generation.get(key) in (None, {})]
    if missing:
        what = f"has no {', '.join(missing)}: language, task or timestamps cannot be chosen"
        yield Finding("problem", _GENERATION, what, _ORIGINAL)


def left_overs(folder: Folder) -> Iterator[Finding]:
    """Find `forced_decoder_ids`, which set the prompt if language and task are not given.

    OpenAI's own configs have them too, but without a language.
    """
    names = (_GENERATION,) if _GENERATION in folder.configs else (_CONFIG,)
    for name in names:
        forced = folder.config(name).get("forced_decoder_ids")
        if not isinstance(forced, list) or not forced:
            continue
        pairs = [pair for pair in forced if isinstance(pair, list) and len(pair) == 2]
        language = next((token for place, token in pairs if place == 1), None)
        level: Level = "note" if language is None else "warning"
        what = "has forced_decoder_ids, which transformers deprecated"
        if language is not None:
            what += f": without a language argument, token {language} is always the language"
        yield Finding(level, name, what, "Delete the key.")


def alignment_heads(folder: Folder) -> Iterator[Finding]:
    """Find alignment heads (for word timestamps) that the decoder does not have."""
    generation = folder.config(_GENERATION)
    layers = folder.number(_CONFIG, "decoder_layers")
    heads = folder.number(_CONFIG, "decoder_attention_heads")
    if not _is_whisper(folder) or not generation:
        return
    stated = generation.get("alignment_heads")
    if not stated:
        what = "has no alignment_heads: word timestamps are not available"
        yield Finding("note", _GENERATION, what, _ORIGINAL)
    elif layers is not None and heads is not None:
        pairs = stated if isinstance(stated, list) else [stated]
        stale = [pair for pair in pairs if not _is_head(pair, layers, heads)]
        if stale:
            what = (
                f"alignment_heads names layer and head {stale[0]}, but there are {layers} layers "
                f"of {heads} heads: word timestamps fail, or are wrong"
            )
            fix = "Delete the key, or use this model's own heads, not a larger model's."
            yield Finding("problem", _GENERATION, what, fix)


def _is_head(pair: object, layers: int, heads: int) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int for n in pair):
        return False
    return pair[0] in range(layers) and pair[1] in range(heads)


def suppressed_tokens(folder: Folder) -> Iterator[Finding]:
    """Find suppressed tokens that the vocabulary does not have."""
    size = folder.number(_CONFIG, "vocab_size")
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        tokens = folder.config(_GENERATION).get(key)
        numbers = [n for n in tokens if type(n) is int] if isinstance(tokens, list) else []
        if size is not None and numbers and max(numbers) >= size:
            what = f"{key} names token {max(numbers)}, but the vocabulary has {size}"
            yield Finding("problem", _GENERATION, what, _ORIGINAL)


def longest_text(folder: Folder) -> Iterator[Finding]:
    """Find a `max_length` beyond the decoder's positions."""
    longest = folder.number(_GENERATION, "max_length")
    positions = folder.number(_CONFIG, "max_target_positions")
    if _is_whisper(folder) and longest is not None and positions and longest > positions:
        what = f"max_length is {longest}, but the decoder has {positions} positions"
        yield Finding("problem", _GENERATION, what, f"Set max_length to {positions}.")


CHECKS = (
    *(mel_bins, window, vocabulary, token_numbers, end_token, prompt, left_overs),
    *(alignment_heads, suppressed_tokens, longest_text),
)
