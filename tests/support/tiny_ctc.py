"""A complete CTC checkpoint of toy size, with a weight norm, and recordings to hear."""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

_LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijk"]
_RATE = 16_000


def make_ctc(folder: Path) -> Path:
    """Write a whole Hugging Face checkpoint folder of random weights, and return the folder.

    Its head is sharp, so that rounding seldom changes which letter is the likeliest.
    """
    folder.mkdir(parents=True)
    vocabulary = {letter: index for index, letter in enumerate(_LETTERS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=_RATE).save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=len(_LETTERS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(32, 32, 32),
        conv_kernel=(10, 8, 8),
        conv_stride=(8, 8, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Wav2Vec2ForCTC(config).eval().requires_grad_(False)
        conv = model.wav2vec2.encoder.pos_conv_embed.conv
        conv.parametrizations.weight.original0.mul_(torch.rand(1, 1, 16) + 0.5)
        model.lm_head.weight.normal_()
    model.save_pretrained(folder)
    return folder


def make_clips(folder: Path, count: int = 3) -> Path:
    """Write recordings of up to two seconds with a transcript each, as a manifest."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = []
    for index in range(count):
        seconds = 0.6 + 0.7 * index
        tones = np.sin(np.cumsum(random.uniform(0.01, 0.4, int(seconds * _RATE))))
        path = folder / f"{index}.wav"
        soundfile.write(path, 0.1 * tones, _RATE)
        line = {"audio_filepath": path.name, "text": "a cab", "duration": seconds}
        lines.append(json.dumps(line))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "manifest.jsonl"
