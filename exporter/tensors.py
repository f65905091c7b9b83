"""Writing safetensors one tensor at a time.

The safetensors library writes from a dictionary that holds every tensor; an artifact of a large
model must not need that memory. The format is eight bytes of length, a JSON header, and the data.
Source: https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from exporter.progress import Progress

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
}


def write_safetensors(
    path: Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    read: Callable[[str], Tensor],
    progress: Progress,
) -> None:
    """Write the tensors of `layout` (name to type and shape), each read when its turn comes.

    Wide types come first, as the library itself orders them, so that every tensor is aligned.
    """
    names = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        dtype, shape = layout[name]
        end = offset + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    written = 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = read(name).contiguous()
            if (tensor.dtype, tuple(tensor.shape)) != layout[name]:
                msg = f"{name} was read as {tensor.dtype} {list(tensor.shape)}, not as laid out"
                raise AssertionError(msg)
            written += file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            progress(f"writing {path.name}", written / offset)
