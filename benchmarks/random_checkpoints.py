"""Write a random-weight Whisper checkpoint of a real shape, with Whisper's real tokenizer.

For figures of speed, size and memory where the real weights are not at hand: kernels do not care
what the numbers are. Tensors are made and written a shard at a time, so a machine smaller than the
model will do. The vocabulary comes from the file of ranks inside the `openai-whisper` package:

    pip install --no-deps openai-whisper
    python -m benchmarks.random_checkpoints small checkpoints/whisper-small

Such a model says anything. With `--says 64` it says the same 64 tokens of every window, between the
times 0 and 28 s, and ends: so whole recordings are decoded alike by every program.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice, pairwise, product
from pathlib import Path
from types import MappingProxyType

import click
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AddedToken,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    WhisperTokenizerFast,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.whisper.modeling_whisper import sinusoids
from transformers.models.whisper.tokenization_whisper import LANGUAGES

END = "<|endoftext|>"
MADE_UP = "made-up"  # tokens of two bytes: kernels do not care what is said
TOKENS = 50_257  # before the special ones
SHARD_BYTES = 512 << 20
LAST_S = 28
LOUD = 20.0  # what a position says, next to the token before it
QUIET = 0.01  # what layers add, next to it
CERTAIN = 16.0  # by which logits are larger, so that a word is likelier than all times together


@dataclass(frozen=True)
class Shape:
    """The numbers in which the real checkpoints differ."""

    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    mels: int = 80
    languages: int = 99


SHAPES = {
    "tiny": Shape(384, 4, 4, 6),
    "base": Shape(512, 6, 6, 8),
    "small": Shape(768, 12, 12, 12),
    "medium": Shape(1024, 24, 24, 16),
    "large-v3": Shape(1280, 32, 32, 20, mels=128, languages=100),
    "large-v3-turbo": Shape(1280, 32, 4, 20, mels=128, languages=100),
}


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float16")
@click.option("--seed", default=0, show_default=True)
@click.option("--says", type=click.IntRange(1, 400), help="Tokens of every window's text.")
@click.option(
    "--ranks",
    help="multilingual.tiktoken, or made-up; by default the installed openai-whisper's.",
)
def main(
    shape: str, folder: Path, dtype: str, seed: int, says: int | None, ranks: str | None
) -> None:
    """Write a checkpoint of SHAPE into FOLDER."""
    chosen = SHAPES[shape]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, ranks_of(ranks), chosen)
    config = whisper_config(tokenizer, chosen)
    config.dtype = dtype
    config.architectures = [WhisperForConditionalGeneration.__name__]
    config.save_pretrained(folder)
    generation_config(tokenizer, chosen).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=chosen.mels).save_pretrained(folder)
    script = script_of(tokenizer, says, seed) if says else {}
    size = write_weights(folder, config, getattr(torch, dtype), seed, script)
    click.echo(f"{folder}: {size / 1e6:.0f} MB of {dtype}, {len(tokenizer)} tokens")


def ranks_of(asked: str | None) -> dict[bytes, int]:
    """Return the rank of each token: of a file, or of as many made-up tokens as Whisper has."""
    if asked == MADE_UP:
        letters = [bytes([byte]) for byte in range(256)]
        pairs = (bytes(pair) for pair in product(range(256), repeat=2))
        return {token: rank for rank, token in enumerate([*letters, *islice(pairs, TOKENS - 256)])}
    path = Path(asked) if asked else installed_ranks()
    lines = path.read_text(encoding="ascii").split("\n")
    told = (line.split() for line in lines if line)
    return {base64.b64decode(token): int(rank) for token, rank in told}


def installed_ranks() -> Path:
    """Return the ranks file of the openai-whisper package, without importing the package."""
    spec = find_spec("whisper")
    for place in spec.submodule_search_locations or [] if spec else []:
        path = Path(place, "assets", "multilingual.tiktoken")
        if path.exists():
            return path
    msg = "no Whisper vocabulary: pip install --no-deps openai-whisper, or give --ranks FILE"
    raise click.ClickException(msg)


def write_tokenizer(folder: Path, ranks: Mapping[bytes, int], shape: Shape) -> WhisperTokenizer:
    """Write the tokenizer files: the ranks' byte pairs, then the special tokens in order."""
    letter = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(letter[byte] for byte in token)

    vocabulary = {spelled(token): rank for token, rank in ranks.items()} | {END: len(ranks)}
    merges = [" ".join(map(spelled, _halves(token, ranks))) for token in ranks if len(token) > 1]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    tokenizer = WhisperTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        unk_token=END,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=448,
    )
    languages = list(LANGUAGES)[: shape.languages]
    # large-v3 renamed the token for silence when it added its hundredth language.
    silence = "nospeech" if shape.languages == 100 else "nocaptions"
    control = ["startoflm", "startofprev", silence, "notimestamps"]
    names = ["startoftranscript", *languages, "translate", "transcribe", *control]
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in names]})
    times = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]
    tokenizer.add_tokens([AddedToken(time, special=False) for time in times])
    tokenizer.save_pretrained(folder)
    WhisperTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return tokenizer


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return the two tokens that were merged into this one: what lower ranks make of it."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        first = joined.index(min(joined))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts


def whisper_config(tokenizer: WhisperTokenizer, shape: Shape) -> WhisperConfig:
    """Return config.json's content."""
    end = tokenizer.convert_tokens_to_ids(END)
    return WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=shape.mels,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def generation_config(tokenizer: WhisperTokenizer, shape: Shape) -> GenerationConfig:
    """Return generation_config.json's content."""
    identifier = tokenizer.convert_tokens_to_ids
    end = identifier(END)
    return GenerationConfig(
        is_multilingual=True,
        language="en",
        task="transcribe",
        lang_to_id={
            f"<|{code}|>": identifier(f"<|{code}|>") for code in list(LANGUAGES)[: shape.languages]
        },
        task_to_id={task: identifier(f"<|{task}|>") for task in ("translate", "transcribe")},
        no_timestamps_token_id=identifier("<|notimestamps|>"),
        prev_sot_token_id=identifier("<|startofprev|>"),
        return_timestamps=False,
        max_initial_timestamp_index=50,
        begin_suppress_tokens=[220, end],
        max_length=448,
        decoder_start_token_id=identifier("<|startoftranscript|>"),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def script_of(tokenizer: WhisperTokenizer, tokens: int, seed: int) -> dict[int, int]:
    """Return the token to say after each position of the decoder.

    A prompt has three tokens, and a fourth one where no times are told.
    """
    drawing = torch.Generator().manual_seed(seed)
    first, last, end = tokenizer.convert_tokens_to_ids(["<|0.00|>", f"<|{LAST_S:.2f}|>", END])
    words = torch.randint(end // 2, end, (tokens,), generator=drawing).tolist()
    return dict(enumerate([first, *words, last, end], start=2))


def write_weights(
    folder: Path,
    config: WhisperConfig,
    dtype: torch.dtype,
    seed: int,
    script: Mapping[int, int] = MappingProxyType({}),
) -> int:
    """Write the tensors as transformers would, in shards of bounded size; return all bytes."""
    shards: list[Path] = []
    index: dict[str, str] = {}
    total = 0
    for shard in _shards(config, dtype, seed, script):
        shards.append(folder / f"shard-{len(shards)}")
        save_file(shard, shards[-1], metadata={"format": "pt"})
        index |= dict.fromkeys(shard, str(len(shards)))
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(shards) == 1:
        shards[0].replace(folder / "model.safetensors")
        return total
    name = "model-{:05d}-of-" + f"{len(shards):05d}.safetensors"
    for number, path in enumerate(shards, start=1):
        path.replace(folder / name.format(number))
    weight_map = {tensor: name.format(int(number)) for tensor, number in index.items()}
    document = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document, indent=2))
    return total


def _shards(
    config: WhisperConfig, dtype: torch.dtype, seed: int, script: Mapping[int, int]
) -> Iterator[dict[str, Tensor]]:
    with torch.device("meta"):
        wanted = WhisperForConditionalGeneration(config).state_dict()
    wanted.pop("proj_out.weight")  # tied to the embedding, and not stored
    generator = torch.Generator().manual_seed(seed)
    shard: dict[str, Tensor] = {}
    words = torch.empty(0)
    for name, meta in wanted.items():
        if (
            sum(tensor.nbytes for tensor in shard.values()) + meta.numel() * dtype.itemsize
            > SHARD_BYTES
        ):
            yield shard
            shard = {}
        values = _values(name, meta, generator)
        if script and name.endswith("decoder.embed_tokens.weight"):
            words = values[[*script.values()]].clone()
        elif script and name.endswith("decoder.embed_positions.weight"):
            values[[*script]] = LOUD * words
        elif script and re.search(r"decoder\.layers\..*(out_proj|fc2)\.weight$", name):
            values *= QUIET
        elif script and name.endswith("decoder.layer_norm.weight"):
            values *= CERTAIN
        shard[name] = values.to(dtype)
    yield shard


def _values(name: str, meta: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("encoder.embed_positions.weight"):
        positions: Tensor = sinusoids(*meta.shape)
        return positions
    if "layer_norm" in name:
        return torch.ones(meta.shape) if name.endswith("weight") else torch.zeros(meta.shape)
    if name.endswith("bias"):
        return torch.zeros(meta.shape)
    return torch.empty(meta.shape).normal_(std=0.02, generator=generator)


if __name__ == "__main__":
    main()
