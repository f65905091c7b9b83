"""Tensors under other names: without the model's prefix, and with those of wrappers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter import cli
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.compatibility import check_fit
from exporter.errors import CheckpointError
from exporter.families import FAMILIES
from exporter.recognition.load import load_original
from tests.support.whisper import multilingual, sounds

WHISPER = FAMILIES["whisper"]
HEAD, TABLE = "proj_out.weight", "model.decoder.embed_tokens.weight"


@pytest.fixture
def folder(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


def rename(folder: Path, naming: Callable[[str], str], form: str = "safetensors") -> None:
    path = folder / "model.safetensors"
    tensors = {naming(name): tensor for name, tensor in load_file(path).items()}
    path.unlink()
    if form == "safetensors":
        save_file(tensors, path)
    elif form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        names = sorted(tensors)
        shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for shard, held in shards.items():
            save_file({name: tensors[name] for name in held}, folder / shard)
        places = {name: shard for shard, held in shards.items() for name in held}
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def fit(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder), allow_pickle=True)
    check_fit(checkpoint, WHISPER.skeleton(checkpoint.config), WHISPER.TIED)


def bare(name: str) -> str:
    return name.removeprefix("model.")


NAMINGS: dict[str, Callable[[str], str]] = {
    "without prefix": bare,
    "compiled": lambda name: f"_orig_mod.{name}",
    "in parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "both, the other way": lambda name: f"_orig_mod.module.{name}",
    "compiled inside": lambda name: name.replace("model.", "model._orig_mod.", 1),
    "compiled parts": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    "compiled in part": lambda name: f"_orig_mod.{name}" if "encoder" in name else name,
    "compiled without prefix": lambda name: f"_orig_mod.{bare(name)}",
    "fsdp": lambda name: f"_fsdp_wrapped_module.{name}",
    "recomputed": lambda name: name.replace("fc1", "_checkpoint_wrapped_module.fc1"),
}


@pytest.mark.parametrize("naming", NAMINGS.values(), ids=NAMINGS)
def test_the_weights_are_found(
    folder: Path, tiny_whisper: Path, naming: Callable[[str], str]
) -> None:
    rename(folder, naming)
    fit(folder)
    ours, theirs = open_checkpoint(str(folder)), open_checkpoint(str(tiny_whisper))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert torch.equal(ours.read(TABLE), theirs.read(TABLE))
    assert not ours.plain
    assert theirs.plain


@pytest.mark.parametrize("form", ["bin", "shards"])
def test_in_other_files(folder: Path, form: str) -> None:
    rename(folder, NAMINGS["compiled without prefix"], form)
    fit(folder)


@pytest.mark.parametrize("name", ["without prefix", "compiled"])
def test_the_original_is_the_same(folder: Path, tiny_whisper: Path, name: str) -> None:
    rename(folder, NAMINGS[name])
    decoding, audio = multilingual(), sounds(0.7)
    before, after = (load_original(one, threads=1) for one in (tiny_whisper, folder))
    assert after.decode(audio, decoding) == before.decode(audio, decoding)


def test_a_head_of_its_own_keeps_its_name(folder: Path) -> None:
    path, config = folder / "model.safetensors", folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": False}))
    weights = load_file(path)
    save_file({bare(name): tensor for name, tensor in weights.items()}, path)
    with pytest.raises(CheckpointError, match=rf"1 missing \(first: {HEAD}"):
        fit(folder)
    save_file({**load_file(path), HEAD: weights[TABLE] + 1}, path)
    fit(folder)
    assert torch.equal(open_checkpoint(str(folder)).read(HEAD), weights[TABLE] + 1)


def openai(name: str) -> str:
    return bare(name).replace("layers", "blocks")


def peft(name: str) -> str:
    return f"base_model.model.{name}".replace("fc1.", "fc1.base_layer.")


@pytest.mark.parametrize(
    ("naming", "told"),
    [
        (lambda name: f"student.{name}", "begin with 'student.': save the model itself"),
        (lambda name: name if "encoder" in name else bare(name), r"\d+ missing"),
        (openai, "OpenAI's names"),
        (peft, "merge_and_unload"),
    ],
)
def test_other_names_are_explained(folder: Path, naming: Callable[[str], str], told: str) -> None:
    rename(folder, naming)
    with pytest.raises(CheckpointError, match=told) as error:
        fit(folder)
    assert len(str(error.value).splitlines()) <= 2


def test_two_names_for_one_tensor(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, f"_orig_mod.{TABLE}": weights[TABLE] + 1}, path)
    assert cli.main(["inspect", str(folder)]) == 3
    assert f"two tensors are {TABLE}" in capfd.readouterr().err
