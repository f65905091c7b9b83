"""Configs, tokenizer, weights and graphs that do not fit; Whisper's generation config."""

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
_ORIGINAL = "Take the file of the model that this one was made from, as it is on the Hub today."
_RE_EXPORT = "Export again from the checkpoint whose config.json lies here, or take that one's."
_FIRST_CONVOLUTION = "model.encoder.conv1.weight"
_EMBEDDING = "model.decoder.embed_tokens.weight"


def _is_whisper(folder: Folder) -> bool:
    return folder.config().get("model_type") == "whisper"


def mel_bins(folder: Folder) -> Iterator[Finding]:
    """The bins that the extractor makes, the config tells, and weights and graphs want."""
    told = {
        _EXTRACTOR: folder.number(_EXTRACTOR, "feature_size"),
        _CONFIG: folder.number(_CONFIG, "num_mel_bins"),
    }
    if not _is_whisper(folder):
        return
    for name, tensors in folder.tensors.items():
        if _FIRST_CONVOLUTION in tensors and len(tensors[_FIRST_CONVOLUTION].shape) > 1:
            told[name] = tensors[_FIRST_CONVOLUTION].shape[1]
    told |= {model.name: _heard(model.graph.inputs, 1) for model in encoders(folder)}
    yield from _differing(told, "mel bins", _RE_EXPORT)


def window(folder: Folder) -> Iterator[Finding]:
    """The frames that the extractor makes, the config tells, and encoders want."""
    if not _is_whisper(folder):
        return
    extractor, positions = folder.config(_EXTRACTOR), folder.number(_CONFIG, "max_source_positions")
    # The second convolution halves them.
    config = None if positions is None else 2 * positions
    told: dict[str, int | None] = {_EXTRACTOR: _frames(extractor), _CONFIG: config}
    told |= {model.name: _heard(model.graph.inputs, 2) for model in encoders(folder)}
    yield from _differing(told, "frames in a window", _RE_EXPORT)


def _frames(extractor: Mapping[str, Any]) -> int | None:
    """The frames that an extractor makes of a window."""
    keys = ("chunk_length", "sampling_rate", "hop_length")
    seconds, rate, hop = (n if type(n := extractor.get(key)) is int else 0 for key in keys)
    return seconds * rate // hop if seconds > 0 and rate > 0 and hop > 0 else None


def _heard(inputs: Mapping[str, tuple[int | str | None, ...]], axis: int) -> int | None:
    """A fixed size of the features, the only input of three axes that an encoder has."""
    for name, shape in inputs.items():
        if len(shape) == 3 and ("features" in name or name == "mel"):
            size = shape[axis]
            return size if isinstance(size, int) else None
    return None


def _differing(told: Mapping[str, int | None], what: str, mend: str) -> Iterator[Finding]:
    """One finding where not all that say something say the same."""
    said = {name: value for name, value in told.items() if value is not None}
    if len(set(said.values())) > 1:
        # Whoever stands alone is most likely wrong; of two, the first.
        counts = list(said.values())
        where = min(said, key=lambda name: counts.count(said[name]))
        rest = ", ".join(f"{name} {value}" for name, value in said.items() if name != where)
        yield Finding("problem", where, f"{said[where]} {what}, but {rest}", mend)


def vocabulary(folder: Folder) -> Iterator[Finding]:
    """Tokens that the tokenizer has and the model does not, or logits of another vocabulary."""
    size = folder.number(_CONFIG, "vocab_size")
    numbers = _tokens(folder)
    if size is None:
        return
    if numbers and max(numbers.values()) >= size:
        what = f"numbers tokens up to {max(numbers.values())}, config.json has {size} of them"
        yield Finding("problem", _tokenizer(folder), what, _ORIGINAL)
    told = {_CONFIG: size}
    for model in decoders(folder):
        logits = model.graph.outputs.get("logits", ())
        if logits and isinstance(logits[-1], int):
            told[model.name] = logits[-1]
    for name, tensors in folder.tensors.items():
        if _EMBEDDING in tensors:
            told[name] = tensors[_EMBEDDING].shape[0]
    yield from _differing(told, "tokens in the vocabulary", _RE_EXPORT)


def _tokenizer(folder: Folder) -> str:
    return next((n for n in ("tokenizer.json", "vocab.json") if n in folder.configs), ".")


def _tokens(folder: Folder) -> dict[str, int]:
    """The tokenizer's numbers by token: of tokenizer.json, or of the two files before it."""
    whole = folder.config("tokenizer.json")
    model = whole.get("model")
    held = model.get("vocab") if isinstance(model, dict) else None
    found = dict(held) if isinstance(held, dict) else {}
    added = whole.get("added_tokens")
    for each in added if isinstance(added, list) else ():
        if isinstance(each, dict):
            found[str(each.get("content"))] = each.get("id")
    if not found:
        found = {**folder.config("vocab.json"), **folder.config("added_tokens.json")}
    return {token: number for token, number in found.items() if isinstance(number, int)}


def token_numbers(folder: Folder) -> Iterator[Finding]:
    """Tokens that tokenizer and generation config number differently: one is another model's."""
    generation, tokens = folder.config(_GENERATION), _tokens(folder)
    asked = {
        "<|startoftranscript|>": generation.get("decoder_start_token_id"),
        "<|notimestamps|>": generation.get("no_timestamps_token_id"),
        "<|endoftext|>": generation.get("eos_token_id"),
    }
    for key, form in (("lang_to_id", "{}"), ("task_to_id", "<|{}|>")):
        table = generation.get(key)
        asked |= {form.format(k): v for k, v in table.items()} if isinstance(table, dict) else {}
    if not _is_whisper(folder):
        return
    wrong = [
        f"{token} is {number} here, {tokens[token]} in the tokenizer"
        for token, number in asked.items()
        if isinstance(number, int) and tokens.get(token, number) != number
    ]
    if wrong:
        more = f" ({len(wrong)} tokens differ)" if len(wrong) > 1 else ""
        yield Finding("problem", _GENERATION, wrong[0] + more, _ORIGINAL)


def end_token(folder: Folder) -> Iterator[Finding]:
    """Two configs that end or begin a text with different tokens."""
    for key in ("eos_token_id", "decoder_start_token_id"):
        ours, theirs = folder.number(_GENERATION, key), folder.number(_CONFIG, key)
        if None not in (ours, theirs) and ours != theirs:
            what = f"{key} is {ours}, but {theirs} in config.json"
            yield Finding("problem", _GENERATION, what, _ORIGINAL)


def prompt(folder: Folder) -> Iterator[Finding]:
    """A generation config from which no prompt can be made: it is of an old transformers."""
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
        what = f"has no {', '.join(missing)}: language, task or timestamps cannot be asked for"
        yield Finding("problem", _GENERATION, what, _ORIGINAL)


def left_overs(folder: Folder) -> Iterator[Finding]:
    """`forced_decoder_ids`, which still set the prompt where nobody asks for language or task.

    OpenAI's own configs have them too, but with no language in them.
    """
    names = (_GENERATION,) if _GENERATION in folder.configs else (_CONFIG,)
    for name in names:
        forced = folder.config(name).get("forced_decoder_ids")
        if not isinstance(forced, list) or not forced:
            continue
        pairs = [pair for pair in forced if isinstance(pair, list) and len(pair) == 2]
        language = next((token for place, token in pairs if place == 1), None)
        level: Level = "note" if language is None else "warning"
        what = "has forced_decoder_ids, which transformers has given up"
        if language is not None:
            what += f": where a caller names no language, token {language} is every recording's"
        yield Finding(level, name, what, "Take the key out of the file.")


def alignment_heads(folder: Folder) -> Iterator[Finding]:
    """Heads for words' times that the decoder does not have: those of a larger model."""
    generation = folder.config(_GENERATION)
    layers = folder.number(_CONFIG, "decoder_layers")
    heads = folder.number(_CONFIG, "decoder_attention_heads")
    if not _is_whisper(folder) or not generation:
        return
    told = generation.get("alignment_heads")
    if not told:
        what = "has no alignment_heads: words get no times"
        yield Finding("note", _GENERATION, what, _ORIGINAL)
    elif layers is not None and heads is not None:
        pairs = told if isinstance(told, list) else [told]
        stale = [pair for pair in pairs if not _is_head(pair, layers, heads)]
        if stale:
            what = (
                f"alignment_heads names layer and head {stale[0]}, of {layers} layers with "
                f"{heads} heads each: words' times fail, or are wrong"
            )
            mend = "Take the key out, or find this model's own heads; a larger one's do not fit."
            yield Finding("problem", _GENERATION, what, mend)


def _is_head(pair: object, layers: int, heads: int) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int for n in pair):
        return False
    return pair[0] in range(layers) and pair[1] in range(heads)


def suppressed_tokens(folder: Folder) -> Iterator[Finding]:
    """Tokens to be kept out that the vocabulary does not have."""
    size = folder.number(_CONFIG, "vocab_size")
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        told = folder.config(_GENERATION).get(key)
        numbers = [n for n in told if type(n) is int] if isinstance(told, list) else []
        if size is not None and numbers and max(numbers) >= size:
            what = f"{key} names token {max(numbers)}, the vocabulary has {size}"
            yield Finding("problem", _GENERATION, what, _ORIGINAL)


def longest_text(folder: Folder) -> Iterator[Finding]:
    """Texts longer than the decoder has positions for."""
    longest = folder.number(_GENERATION, "max_length")
    positions = folder.number(_CONFIG, "max_target_positions")
    if _is_whisper(folder) and longest is not None and positions and longest > positions:
        what = f"max_length is {longest}, the decoder has {positions} positions"
        yield Finding("problem", _GENERATION, what, f"Set max_length to {positions}.")


CHECKS = (
    *(mel_bins, window, vocabulary, token_numbers, end_token, prompt, left_overs),
    *(alignment_heads, suppressed_tokens, longest_text),
)
