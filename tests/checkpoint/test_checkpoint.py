"""Checkpoints that cannot be used are refused by name, before anything is built."""

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from exporter.checkpoint import checkpoint as product
from exporter.checkpoint.compatibility import check_fit
from exporter.errors import CheckpointError
from exporter.families import FAMILIES, family_name
from exporter.recognition.load import load_original as load_the_original

# Half of these tests are about torch's own files.
open_checkpoint = partial(product.open_checkpoint, allow_pickle=True)
load_original = partial(load_the_original, allow_pickle=True)
HEAD, TABLE = "proj_out.weight", "model.decoder.embed_tokens.weight"


@pytest.fixture
def folder(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    path = folder / "model.safetensors"
    tensors: dict[str, torch.Tensor | None] = {**load_file(path), **change}
    save_file({name: t for name, t in tensors.items() if t is not None}, path)


def pickled(
    folder: Path, change: Callable[[dict[str, Any]], object] = dict, **options: Any
) -> Path:
    """Store the weights as torch does, the tied ones beside each other, after a change to them."""
    tensors: dict[str, Any] = dict(load_file(folder / "model.safetensors"))
    tensors[HEAD] = tensors[TABLE]
    change(tensors)
    torch.save(tensors, folder / "pytorch_model.bin", **options)
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def same_as_transformers(folder: Path) -> None:
    opened = open_checkpoint(str(folder))
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype="auto")
    for name, tensor in model.state_dict().items():
        if name in opened.tensors:
            assert opened.read(name).dtype == tensor.dtype
            assert torch.equal(opened.read(name), tensor)


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


def test_a_stored_copy_of_the_tied_head_is_not_another_weight(folder: Path) -> None:
    alone = open_checkpoint(str(folder))
    table = alone.read("model.decoder.embed_tokens.weight")
    rewrite(folder, {"proj_out.weight": table + 1})
    both = open_checkpoint(str(folder))
    assert both.tensors.keys() == alone.tensors.keys()
    assert both.parameters == alone.parameters
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert torch.equal(open_checkpoint(str(folder)).read("proj_out.weight"), table + 1)


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


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        open_checkpoint(str(folder))


def test_a_pickle_is_read_only_if_it_is_allowed(folder: Path) -> None:
    pickled(folder)
    for opened in (product.open_checkpoint, load_the_original):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle.*\n.*--set"):
            opened(str(folder))


def test_torchs_own_format_reads_like_safetensors(folder: Path, tiny_whisper: Path) -> None:
    pickled(folder)
    fit(folder)
    whole, opened = open_checkpoint(str(tiny_whisper)), open_checkpoint(str(folder))
    assert opened.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(whole.read(name), opened.read(name)) for name in whole.tensors)
    blocks = [block.clone() for block in opened.blocks(TABLE)]
    assert torch.equal(torch.cat(blocks), whole.read(TABLE))
    same_as_transformers(folder)


def test_tied_weights_that_share_their_storage_count_once(folder: Path, tiny_whisper: Path) -> None:
    pickled(folder)
    opened = open_checkpoint(str(folder))
    assert HEAD not in opened.tensors
    assert opened.parameters == open_checkpoint(str(tiny_whisper)).parameters


def test_tied_weights_may_both_be_in_safetensors(folder: Path) -> None:
    rewrite(folder, {HEAD: load_file(folder / "model.safetensors")[TABLE].clone()})
    fit(folder)
    same_as_transformers(folder)


def test_half_precision_in_torchs_own_format(tmp_path: Path, english_whisper: Path) -> None:
    folder = Path(shutil.copytree(english_whisper, tmp_path / "half"))
    path = pickled(folder)
    fit(folder)
    assert {info.dtype for info in open_checkpoint(str(folder)).tensors.values()} == {"F16"}
    same_as_transformers(folder)
    assert open_checkpoint(str(folder)).weight_files == [path]


def test_torchs_own_shards_read_as_one(folder: Path, tiny_whisper: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for number, held in enumerate((names[::2], names[1::2]), start=1):
        shard = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: tensors[name] for name in held}, folder / shard)
        index |= dict.fromkeys(held, shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    fit(folder)
    whole, sharded = open_checkpoint(str(tiny_whisper)), open_checkpoint(str(folder))
    assert all(torch.equal(whole.read(name), sharded.read(name)) for name in names)


def test_safetensors_are_preferred(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert [path.name for path in open_checkpoint(str(folder)).weight_files] == [
        "model.safetensors"
    ]


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, -1000])
def test_torchs_own_format_truncated(folder: Path, keep: int) -> None:
    path = pickled(folder)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: damaged or truncated"):
        open_checkpoint(str(folder))


def test_a_pickle_that_makes_no_sense(folder: Path) -> None:
    path = pickled(folder)
    begin = path.read_bytes().index(b"\x80\x02")  # the description of the tensors
    with path.open("r+b") as file:
        file.seek(begin + 40)
        file.write(b"\x00" * 40)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: "):
        open_checkpoint(str(folder))


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._sprung,)


@pytest.mark.parametrize("modern", [True, False])
def test_a_malicious_pickle_is_not_executed(folder: Path, tmp_path: Path, modern: bool) -> None:
    sprung = tmp_path / "sprung"
    options = {"_use_new_zipfile_serialization": modern}
    path = pickled(folder, lambda tensors: tensors.update(trap=Trap(sprung)), **options)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*\n(.*\n)?\S*python\S* -c "):
        open_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load_original(str(folder))
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists(), "the trap does not work, so the test shows nothing"


def gapped(tensors: dict[str, Any]) -> None:
    tensors[TABLE] = tensors[TABLE].t().contiguous().t()


def with_an_object(tensors: dict[str, Any]) -> None:
    tensors["note"] = Path("written by a trainer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (dict, {"_use_new_zipfile_serialization": False}, "the format that torch left"),
        (gapped, {}, r"embed_tokens\.weight is a tensor with gaps"),
        (with_an_object, {}, "holds more than tensors"),
    ],
)
def test_what_is_refused_comes_with_the_command_that_converts_it(
    folder: Path,
    tiny_whisper: Path,
    change: Callable[[dict[str, Any]], object],
    options: dict[str, bool],
    told: str,
) -> None:
    pickled(folder, change, **options)
    with pytest.raises(CheckpointError, match=told) as refused:
        open_checkpoint(str(folder))
    lines = str(refused.value).splitlines()
    assert len(lines) <= 3
    subprocess.run(lines[-1], shell=True, check=True, capture_output=True)
    fit(folder)
    whole, converted = open_checkpoint(str(tiny_whisper)), open_checkpoint(str(folder))
    assert converted.plain
    assert all(torch.equal(whole.read(name), converted.read(name)) for name in whole.tensors)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": torch.zeros(2)}}])
def test_pickles_that_are_no_table_of_tensors(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: "):
        open_checkpoint(str(folder))


def test_the_original_of_torchs_own_format(folder: Path, tiny_whisper: Path) -> None:
    pickled(folder)
    ours, theirs = load_original(str(folder)).model, load_original(str(tiny_whisper)).model
    assert ours.proj_out.weight is ours.model.decoder.embed_tokens.weight
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name])


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
