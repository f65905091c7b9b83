"""Write a random-weight wav2vec 2.0 CTC checkpoint of a real shape, with an English vocabulary.

For figures of speed, size and memory, as benchmarks/random_checkpoints.py does for Whisper.

    python -m benchmarks.random_ctc base checkpoints/wav2vec2-base
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LAYER_NORM = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
SHAPES: dict[str, dict[str, Any]] = {
    # facebook/wav2vec2-base-960h: group norm, transformers' defaults.
    "base": {},
    # The same width without group norm, which CTranslate2 lacks. No well-known checkpoint is so.
    "base-layer-norm": _LAYER_NORM,
    # facebook/wav2vec2-large-960h-lv60-self and the fine-tunes of XLSR-53: layer norm.
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        **_LAYER_NORM,
    },
}


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32")
@click.option("--seed", default=0, show_default=True)
def main(shape: str, folder: Path, dtype: str, seed: int) -> None:
    """Write a checkpoint of SHAPE into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    config = Wav2Vec2Config(
        **SHAPES[shape],
        vocab_size=len(TOKENS),
        pad_token_id=TOKENS.index("<pad>"),
        # The real checkpoints lack the tensor that masking adds.
        mask_time_prob=0.0,
    )
    masked = config.feat_extract_norm == "layer"
    Wav2Vec2FeatureExtractor(return_attention_mask=masked).save_pretrained(folder)
    torch.manual_seed(seed)
    model = Wav2Vec2ForCTC(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    click.echo(f"{folder}: {parameters / 1e6:.0f} M parameters in {dtype}")


if __name__ == "__main__":
    main()
