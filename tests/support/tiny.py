"""Complete Whisper checkpoints of toy size, made in a second, of any shape.

The weights are random, but they speak: the decoder's position embeddings favour a fixed row of
words that ends, and at every third place two words alike, so that the audio and the words before
decide. An error anywhere in the model then changes the text, while rounding seldom does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from tests.support.tokenizer_files import END, byte_symbols, save_whisper_tokenizer

WORDS = [
    *("red", "green", "blue", "one", "two", "three", "left", "right", "stop", "go", "open"),
    *(
        "close",
        "light",
        "door",
        "near",
        "far",
        "day",
        "night",
        "north",
        "south",
        "east",
        "west",
        "cold",
    ),
    *("warm", "slow", "fast", "high", "low", "old", "new"),
]


@dataclass(frozen=True)
class Shape:
    """What may differ between two Whisper checkpoints; `certainty` 0: plain random weights."""

    window_s: int = 4
    width: int = 64
    encoder_layers: int = 2
    decoder_layers: int = 2
    heads: int = 2
    mels: int = 80
    languages: int = 3
    english_only: bool = False
    words: int = 9
    max_tokens: int = 64
    dtype: str = "float32"
    certainty: float = 6.0


def make_whisper(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a whole Hugging Face checkpoint folder, a `Shape(**changes)`, and return the folder."""
    shape = Shape(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(folder, shape)
    config = _config(tokenizer, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config).eval()
        _initialise(model, tokenizer, shape)
    model.generation_config = _generation_config(tokenizer, shape)
    model.to(getattr(torch, shape.dtype)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=shape.mels, chunk_length=shape.window_s).save_pretrained(
        folder
    )
    return folder


def _tokenizer(folder: Path, shape: Shape) -> Tokenizer:
    """Byte-level pairs that spell `WORDS`, then the special tokens in Whisper's own order."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        spelled = "Ġ" + word
        for end in range(1, len(spelled)):
            merges[spelled[:end], spelled[end]] = None
    symbols = [*byte_symbols(), *dict.fromkeys("".join(pair) for pair in merges), END]
    languages = list(LANGUAGES)[: shape.languages]
    control = ["startoflm", "startofprev", "nospeech", "notimestamps"]
    names = ["startoftranscript", *languages, "translate", "transcribe", *control]
    return save_whisper_tokenizer(
        folder,
        {symbol: index for index, symbol in enumerate(symbols)},
        list(merges),
        [f"<|{name}|>" for name in names],
        [f"<|{step * 0.02:.2f}|>" for step in range(50 * shape.window_s + 1)],
        shape.max_tokens,
    )


def _id(tokenizer: Tokenizer, name: str) -> int:
    return _token_id(tokenizer, f"<|{name}|>")


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    identifier = tokenizer.token_to_id(token)
    assert isinstance(identifier, int)
    return identifier


def _config(tokenizer: Tokenizer, shape: Shape) -> WhisperConfig:
    end = _id(tokenizer, "endoftext")
    return WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        num_mel_bins=shape.mels,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=2 * shape.width,
        decoder_ffn_dim=2 * shape.width,
        max_source_positions=50 * shape.window_s,
        max_target_positions=shape.max_tokens,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=_id(tokenizer, "startoftranscript"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def _generation_config(tokenizer: Tokenizer, shape: Shape) -> GenerationConfig:
    end = _id(tokenizer, "endoftext")
    tasks = ("translate", "transcribe")
    never = ["startoftranscript", *tasks, "startoflm", "startofprev", "nospeech"]
    languages = list(LANGUAGES)[: shape.languages]
    several = {
        "language": "en",
        "task": "transcribe",
        "lang_to_id": {f"<|{code}|>": _id(tokenizer, code) for code in languages},
        "task_to_id": {task: _id(tokenizer, task) for task in tasks},
    }
    return GenerationConfig(
        is_multilingual=not shape.english_only,
        no_timestamps_token_id=_id(tokenizer, "notimestamps"),
        prev_sot_token_id=_id(tokenizer, "startofprev"),
        return_timestamps=False,
        max_initial_timestamp_index=min(50, 25 * shape.window_s),
        suppress_tokens=sorted(_id(tokenizer, name) for name in never),
        begin_suppress_tokens=[*tokenizer.encode(" ", add_special_tokens=False).ids, end],
        alignment_heads=[[shape.decoder_layers - 1, head] for head in range(shape.heads)],
        max_length=shape.max_tokens,
        decoder_start_token_id=_id(tokenizer, "startoftranscript"),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        **({} if shape.english_only else several),
    )


def _initialise(model: WhisperForConditionalGeneration, tokenizer: Tokenizer, shape: Shape) -> None:
    """Make every layer matter, and the positions favour words."""
    decoder = model.model.decoder
    tokens, positions = decoder.embed_tokens.weight, decoder.embed_positions.weight
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not model.proj_out:
                nn.init.xavier_normal_(module.weight)
            elif isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)
        for name, weight in model.named_parameters():
            if name.endswith("q_proj.weight"):
                weight.mul_(3)  # attend to something, not to everything alike
            elif "decoder" in name and name.endswith(("out_proj.weight", "fc2.weight")):
                weight.mul_(2 * shape.width**-0.5)  # a layer adds about as much as a token
        tokens.normal_(std=shape.width**-0.5)
        positions.normal_(std=0.1 * shape.width**-0.5)
        # The prompt ends with <|notimestamps|>; a multilingual one names language and task before.
        last = 1 if shape.english_only else 3
        for place, favoured in enumerate(_script(tokenizer, shape), start=last):
            if shape.certainty and place < len(positions):
                both = tokens[favoured].sum(0)
                positions[place] += shape.certainty * both / both.norm()


def _script(tokenizer: Tokenizer, shape: Shape) -> list[list[int]]:
    """The token, or the two rival tokens, that each position favours next; then always the end."""
    identifiers = [_token_id(tokenizer, "Ġ" + word) for word in WORDS]
    order = torch.randperm(len(identifiers)).tolist()
    shuffled = iter([identifiers[index] for index in order])
    script = [
        [next(shuffled), next(shuffled)] if place % 3 == 1 else [next(shuffled)]
        for place in range(shape.words)
    ]
    return script + [[_id(tokenizer, "endoftext")]] * shape.max_tokens
