"""Weight files and their index must agree, and be files."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from exporter.checkpoint.shards import tensor_infos
from exporter.errors import CheckpointError
from exporter.formats.config_json import is_regular_file, read_json

ONE, OTHER = "model-1.safetensors", "model-2.safetensors"


def shards(folder: Path, held: dict[str, list[str]], weight_map: object) -> Path:
    for name, tensors in held.items():
        save_file({tensor: torch.zeros(2) for tensor in tensors}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        tensor_infos(folder, allow_pickle=False)
    return str(caught.value)


def test_shards_that_agree(tmp_path: Path) -> None:
    folder = shards(tmp_path, {ONE: ["a"], OTHER: ["b"]}, {"a": ONE, "b": OTHER})
    assert tensor_infos(folder, allow_pickle=False).keys() == {"a", "b"}


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = shards(tmp_path, {ONE: ["a"], OTHER: ["a", "b"]}, {"a": ONE, "b": OTHER})
    assert f"{OTHER}: tensor a is in {ONE} too" in refusal(folder)


def test_a_tensor_that_is_elsewhere(tmp_path: Path) -> None:
    folder = shards(tmp_path, {ONE: ["a"], OTHER: ["b"]}, {"a": OTHER, "b": OTHER, "c": ONE})
    assert f"says that a is in {OTHER}, but it is in {ONE}" in refusal(folder)


@pytest.mark.parametrize("shard", ["config.json", "../model-1.safetensors", "absent.safetensors"])
def test_a_shard_that_is_none(shard: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert f"names the shard '{shard}'" in refusal(shards(tmp_path, {ONE: ["a"]}, {"a": shard}))


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 5}])
def test_an_index_of_nothing(weight_map: object, tmp_path: Path) -> None:
    assert "no `weight_map`" in refusal(shards(tmp_path, {ONE: ["a"]}, weight_map))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("."),
    ],
    ids=["a folder", "a pipe", "a dangling link", "a circle", "a link to a folder"],
)
def test_what_is_no_file(make: Callable[[Path], None], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        make(tmp_path / name)
    assert "model.safetensors" in refusal(tmp_path)
    for look in (is_regular_file, read_json):
        with pytest.raises(CheckpointError, match=r"config\.json is "):
            look(tmp_path / "config.json")
