"""Parameters that are stored in parts are computed when they are read, as transformers would."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Wav2Vec2ForCTC

from exporter.checkpoint.derived import Derived, derive, stored
from exporter.checkpoint.lora import Merged
from exporter.errors import CheckpointError
from exporter.families.ctc import derived
from exporter.families.derived import Derivation
from exporter.formats.tensor_io import TensorInfo, safetensors_infos
from tests.support.tiny_ctc import make_ctc

CONV = "wav2vec2.encoder.pos_conv_embed.conv"
NEW = (f"{CONV}.parametrizations.weight.original0", f"{CONV}.parametrizations.weight.original1")
OLD = (f"{CONV}.weight_g", f"{CONV}.weight_v")
DERIVED = derived.derived("wav2vec2.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ctc(tmp_path_factory.mktemp("derived") / "checkpoint")


def infos(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    path = folder / "changed.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return safetensors_infos(path)


@pytest.mark.parametrize("names", [NEW, OLD], ids=["parametrized", "weight_g and weight_v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_norm_is_folded(
    checkpoint: Path, tmp_path: Path, names: tuple[str, str], dtype: torch.dtype
) -> None:
    state = load_file(checkpoint / "model.safetensors")
    renamed = {dict(zip(NEW, names, strict=True)).get(n, n): t.to(dtype) for n, t in state.items()}
    found = derive(infos(tmp_path, renamed), DERIVED)
    assert found.keys() == state.keys() - set(NEW) | {f"{CONV}.weight"}
    model = Wav2Vec2ForCTC.from_pretrained(checkpoint)
    expected = model.wav2vec2.encoder.pos_conv_embed.conv.weight.detach()
    weight = found[f"{CONV}.weight"]
    assert (weight.shape, weight.read().dtype) == (tuple(expected.shape), dtype)
    torch.testing.assert_close(weight.read().float(), expected, rtol=2e-3, atol=1e-3)
    assert torch.equal(torch.cat([block.clone() for block in weight.blocks()]), weight.read())
    assert stored(found).keys() == renamed.keys()


def test_what_is_stored_whole_is_taken_as_it_is(tmp_path: Path) -> None:
    given = infos(tmp_path, {f"{CONV}.weight": torch.ones(2, 2, 2)})
    assert derive(given, DERIVED) == given


def test_parts_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    given = infos(tmp_path, {NEW[0]: torch.ones(1, 1, 3), NEW[1]: torch.ones(4, 2, 5)})
    with pytest.raises(CheckpointError, match=r"weight cannot be computed of .*\[1, 1, 3\] and"):
        derive(given, DERIVED)


def test_half_of_the_parts_derives_nothing(tmp_path: Path) -> None:
    given = infos(tmp_path, {NEW[0]: torch.ones(1, 1, 3)})
    assert derive(given, DERIVED) == given


def test_an_adapter_goes_over_a_derived_weight(tmp_path: Path) -> None:
    parts = {"half": torch.randn(3, 4), "down": torch.randn(1, 4), "up": torch.randn(3, 1)}
    given = infos(tmp_path, parts)
    twice = derive(given, {"weight": [Derivation(("half",), lambda half: 2 * half)]})["weight"]
    assert isinstance(twice, Derived)
    place = (twice.file, twice.offset, twice.shape, twice.dtype)
    merged = Merged(*place, twice, given["down"], given["up"], 0.5)
    expected = 2 * parts["half"] + 0.5 * parts["up"] @ parts["down"]
    torch.testing.assert_close(merged.read(), expected)
