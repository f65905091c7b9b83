"""Write a Hugging Face checkpoint as the dictionary that openai-whisper loads.

python -m benchmarks.peers.workers.openai_convert checkpoints/whisper-small FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# In this order: the longer names first where one is a part of another.
RENAMED = (
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("self_attn_layer_norm", "attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
    ("encoder_attn", "cross_attn"),
    ("self_attn", "attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("layers", "blocks"),
    ("embed_tokens", "token_embedding"),
    ("embed_positions.weight", "positional_embedding"),
)
DIMENSIONS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}


def convert(checkpoint: Path, folder: Path) -> None:
    """Write FOLDER/model.pt, in the checkpoint's own type as OpenAI's files are."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_bytes())
    state: dict[str, Tensor] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        state |= {renamed(name): tensor for name, tensor in load_file(path).items()}
    state.pop("proj_out.weight", None)  # tied to the embedding
    dimensions = {theirs: config[ours] for theirs, ours in DIMENSIONS.items()}
    folder.mkdir(parents=True)
    torch.save({"dims": dimensions, "model_state_dict": state}, folder / "model.pt")


def renamed(name: str) -> str:
    """Return OpenAI's name of a tensor."""
    name = name.removeprefix("model.")
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
