"""Tensors that are mapped are those that are read."""

from pathlib import Path

import pytest
import torch

from exporter.formats.tensor_io import mapped, safetensors_infos, write_safetensors
from exporter.system.progress import silent

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8)


@pytest.mark.parametrize("shape", [(3, 5), (7,), (0, 4)], ids=str)
def test_a_mapped_tensor_has_the_values_of_one_that_is_read(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = {str(dtype): torch.randint(0, 100, shape).to(dtype) for dtype in DTYPES}
    tensors["other"] = torch.ones(2)
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, layout, tensors.__getitem__, silent)
    content = path.read_bytes()
    infos = safetensors_infos(path)
    for name, tensor in tensors.items():
        found = mapped(infos[name])
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
        assert torch.equal(found, infos[name].read())
        found.zero_()
    assert path.read_bytes() == content
