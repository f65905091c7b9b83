"""The benchmark scripts run: a sharded checkpoint that loads, and what of it is counted."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

from benchmarks import random_checkpoints
from benchmarks.build_cost.results import ideal_bytes
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.recognition.load import load_original


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a shape so small that its shards must be small too."""
    return written(tmp_path_factory.mktemp("benchmarks"))


def written(folder: Path, *options: str) -> Path:
    tokens = [*(bytes([byte]) for byte in range(256)), b" t", b"he", b" the", b"re", b" there"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "ranks").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_checkpoints, "SHAPES", {"tiny": random_checkpoints.Shape(64, 2, 2, 2)})
        patch.setattr(random_checkpoints, "SHARD_BYTES", 200_000)
        arguments = ["tiny", str(folder / "toy"), "--ranks", str(folder / "ranks"), *options]
        done = CliRunner().invoke(random_checkpoints.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder / "toy"


def test_the_checkpoint_is_whole(toy: Path) -> None:
    opened = open_checkpoint(str(toy))
    assert len(opened.weight_files) > 3
    assert {info.dtype for info in opened.tensors.values()} == {"F16"}
    model, loading = WhisperForConditionalGeneration.from_pretrained(
        toy, dtype=torch.float32, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.generation_config.lang_to_id["<|en|>"] == model.config.decoder_start_token_id + 1


def test_the_byte_pairs_are_recovered(toy: Path) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(toy)
    assert tokenizer.tokenize(" there the") == ["Ġthere", "Ġthe"]
    assert tokenizer.decode(tokenizer(" the re").input_ids, skip_special_tokens=True) == " the re"


def test_the_ideal_size_counts_every_tensor_once(toy: Path) -> None:
    """Counted by hand for two layers of width 64 on each side, in float16."""
    opened = open_checkpoint(str(toy))
    tokens = opened.config["vocab_size"]
    square, wide = 64 * 64, 64 * 256
    attentions = 2 * (1 + 2)  # the encoder's, and the decoder's to itself and to the encoder
    weights = 4 * attentions * square + 4 * 2 * wide + 64 * tokens
    scales = 4 * attentions * 64 + 4 * (256 + 64) + tokens
    biases = 3 * attentions * 64 + 4 * (256 + 64)
    norms = 2 * 64 * (2 * 2 + 2 * 3 + 2)
    convolutions = 64 * 80 * 3 + 64 * 64 * 3 + 2 * 64
    tables = 64 * (tokens + 1500 + 448)
    rest = 2 * (biases + norms + convolutions + tables)
    assert ideal_bytes(opened) == weights + 4 * scales + rest


@pytest.mark.parametrize("timestamps", [False, True])
def test_a_checkpoint_that_says_the_same_of_every_window(tmp_path: Path, timestamps: bool) -> None:
    """Seventy seconds are three windows, each with as many tokens."""
    recogniser = load_original(written(tmp_path, "--says", "20"))
    recording = np.random.default_rng(0).normal(0, 0.1, 70 * 16_000).astype(np.float32)
    long = recogniser.transcribe(recording, sampling_rate=16_000, language="en")
    assert [(each.start_s, each.end_s) for each in long.segments] == [(0, 28), (30, 58), (60, 70)]
    assert len({each.text for each in long.segments}) == 1
    (short,) = recogniser.transcribe(
        [recording[: 9 * 16_000]], sampling_rate=16_000, language="en", timestamps=timestamps
    )
    assert short.text == long.segments[0].text
    assert 3 * short.tokens == long.tokens
    assert len(short.tokens) == 20
