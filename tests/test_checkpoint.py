"""Checkpoints that cannot be used are refused by name, before anything is built."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter.checkpoint import open_checkpoint
from exporter.errors import CheckpointError
from exporter.families import FAMILIES, family_name
from exporter.quantize import check_fit


@pytest.fixture
def folder(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    path = folder / "model.safetensors"
    tensors: dict[str, torch.Tensor | None] = {**load_file(path), **change}
    save_file({name: t for name, t in tensors.items() if t is not None}, path)


def fit(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    family = FAMILIES[family_name(checkpoint.config)]
    check_fit(checkpoint, family.skeleton(checkpoint.config), family.TIED)


def test_an_intact_checkpoint(folder: Path) -> None:
    checkpoint = open_checkpoint(folder.name, folder.parent)
    fit(folder)
    assert checkpoint.parameters > 100_000
    assert "generation_config.json" in checkpoint.companions
    other = open_checkpoint(str(folder))
    assert (other.sha256, len(other.sha256)) == (checkpoint.sha256, 64)


def test_shards_read_as_one(folder: Path, tiny_whisper: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    index = {name: shard for shard, held in halves.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    fit(folder)
    whole, sharded = open_checkpoint(str(tiny_whisper)), open_checkpoint(str(folder))
    assert all(torch.equal(whole.read(name), sharded.read(name)) for name in names)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        open_checkpoint("./absent", tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "preprocessor_config.json"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(str(folder))


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json \(or vocab\.json"):
        open_checkpoint(str(folder))


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, which is a pickle"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_weights(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or truncated"):
        open_checkpoint(str(folder))


def test_a_shard_that_leads_out_of_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"x": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not in the folder"):
        open_checkpoint(str(folder))


def test_values_that_are_not_numbers(folder: Path) -> None:
    rewrite(folder, {"model.encoder.conv1.bias": torch.full((64,), torch.nan)})
    with pytest.raises(CheckpointError, match=r"conv1\.bias holds NaN"):
        open_checkpoint(str(folder)).read("model.encoder.conv1.bias")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.encoder.conv1.bias": None}, r"1 missing \(first: model.encoder.conv1.bias\)"),
        ({"surprise": torch.zeros(2)}, r"1 unexpected \(first: surprise\)"),
        ({"model.encoder.conv1.bias": torch.zeros(3)}, r"\[3\], config.json says \[64\]"),
    ],
)
def test_tensors_that_do_not_fit(
    folder: Path, change: dict[str, torch.Tensor | None], told: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=told):
        fit(folder)


def test_weights_of_a_type_that_no_target_reads(folder: Path) -> None:
    rewrite(folder, {"model.encoder.conv1.bias": torch.zeros(64, dtype=torch.float64)})
    with pytest.raises(CheckpointError, match=r"1 of type F64, not F32 or F16 or BF16"):
        fit(folder)


def test_links_out_of_the_folder_are_not_followed(folder: Path) -> None:
    (folder.parent / "secret").write_text("{}")
    (folder / "normalizer.json").symlink_to(folder.parent / "secret")
    with pytest.raises(CheckpointError, match="leads out of the checkpoint"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "lightglue"}', "{}"])
def test_configs_of_no_known_family(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        family_name(open_checkpoint(str(folder)).config)
