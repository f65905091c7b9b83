"""LoRA adapters of toy size, laid out as peft saves them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "base_model.model."
QUERY = "model.encoder.layers.0.self_attn.q_proj"
VALUE = "model.decoder.layers.1.encoder_attn.v_proj"
WIDE = "model.decoder.layers.0.fc1"


def write_adapter(
    base: Path,
    modules: tuple[str, ...] = (QUERY, VALUE, WIDE),
    ranks: dict[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Path:
    """An adapter folder beside its base, as peft saves it, with random factors."""
    folder = base.parent / "adapter"
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": f"../{base.name}",
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "r": 4,
        "target_modules": ["q_proj", "v_proj", "fc1"],
        "use_dora": False,
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(base / "model.safetensors")
    source = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for module in modules:
        out, width = weights[f"{module}.weight"].shape
        rank = (ranks or {}).get(module, 4)
        down = torch.randn(rank, width, generator=source) * width**-0.5
        tensors[f"{PREFIX}{module}.lora_A.weight"] = down.to(dtype)
        up = torch.randn(out, rank, generator=source) * 0.1
        tensors[f"{PREFIX}{module}.lora_B.weight"] = up.to(dtype)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def change(adapter: Path, tensors: dict[str, Tensor | None]) -> None:
    path = adapter / "adapter_model.safetensors"
    changed: dict[str, Tensor | None] = {**load_file(path), **tensors}
    save_file({name: t for name, t in changed.items() if t is not None}, path)
