"""What is no checkpoint of transformers is named, with what helps."""

import json
import shutil
from pathlib import Path

import pytest

from exporter import cli
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.foreign import refuse_other_kinds
from exporter.errors import CheckpointError
from tests.conftest import Refused
from tests.support.newer import change

FILES = {
    "a model of CTranslate2": ("model.bin", "vocabulary.json", "tokenizer.json"),
    "a model of CTranslate2 ": ("model.bin", "vocabulary.txt", "config.json"),
    "a model of MLX": ("weights.npz", "config.json"),
    "a model of MLX ": ("weights.safetensors", "config.json"),
    "a model of whisper.cpp": ("ggml-large-v3-q5_0.bin",),
    "a GGUF file": ("whisper-tiny.gguf",),
    "a file of torch, as of OpenAI's whisper": ("large-v3.pt",),
    "a file of torch, as of OpenAI's whisper ": ("model.pth",),
    "a model of NVIDIA NeMo": ("parakeet.nemo",),
    "a folder of ONNX graphs": ("config.json", "encoder_model.onnx", "decoder_model_merged.onnx"),
    "a folder of ONNX graphs ": ("config.json", "onnx/encoder_model.onnx"),
    "a model of TensorFlow": ("config.json", "tf_model.h5"),
    "a model of Flax": ("config.json", "flax_model.msgpack"),
    "a model of OpenVINO": ("config.json", "openvino_encoder_model.xml"),
    "a model of Core ML": ("AudioEncoder.mlmodelc/weights",),
    "sharded by DeepSpeed": ("config.json", "zero_to_fp32.py"),
    "sharded by FSDP": ("config.json", "pytorch_model_fsdp_0/__0_0.distcp"),
    "a training's state of PyTorch Lightning": ("epoch=3.ckpt",),
    "a training's state without the model": ("optimizer.pt", "scheduler.pt"),
    "an artifact of exporter": ("manifest.json", "recipe.yaml", "model.safetensors"),
    "an artifact of exporter ": ("aoti/manifest.json", "aoti/recipe.yaml", "aoti/config.json"),
}


@pytest.mark.parametrize(("what", "names"), FILES.items(), ids=FILES)
def test_kinds_by_their_files(tmp_path: Path, what: str, names: tuple[str, ...]) -> None:
    folder = tmp_path / "my model"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=what.strip()) as error:
        open_checkpoint(str(folder))
    assert 2 <= len(str(error.value).splitlines()) <= 3
    assert "PLACE" not in str(error.value)
    with pytest.raises(CheckpointError, match=what.strip()):
        refuse_other_kinds("org/model at 123", names, place="org/model")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"n_mels": 80, "n_audio_state": 384, "model_type": "whisper"}, "a model of MLX"),
        ({"lang_ids": [1], "suppress_ids": [2]}, "a model of CTranslate2"),
        ({"architectures": ["WhisperForAudioClassification"]}, "a classifier"),
        ({"architectures": ["WhisperForCausalLM"]}, "a decoder alone"),
    ],
)
def test_kinds_by_their_config(
    checkpoint: Path, refused: Refused, config: dict[str, object], what: str
) -> None:
    change(checkpoint / "config.json", **config)
    assert what in refused(3)


@pytest.mark.parametrize("value", [7, [7], {"a": 1}, None, "WhisperForCausalLM"])
def test_odd_architectures(checkpoint: Path, value: object) -> None:
    change(checkpoint / "config.json", architectures=value)
    assert cli.main(["build", "recipe.yaml", "--dry-run"]) in (0, 3)


def test_files_beside_weights_do_not_matter(checkpoint: Path) -> None:
    """Repositories of well-known models hold copies for every tool."""
    for name in ("tf_model.h5", "flax_model.msgpack", "optimizer.pt", "ggml-tiny.bin", "a.onnx"):
        (checkpoint / name).write_bytes(b"")
    (checkpoint / "onnx").mkdir()
    (checkpoint / "onnx" / "encoder_model.onnx").write_bytes(b"")
    open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("inner", ["checkpoint-500", "snapshots/0123abc"])
def test_a_folder_of_checkpoints(tiny_whisper: Path, tmp_path: Path, inner: str) -> None:
    shutil.copytree(tiny_whisper, tmp_path / "out" / inner)
    with pytest.raises(CheckpointError, match=f"give one of them, like .*/out/{inner}$"):
        open_checkpoint("out", tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tiny.pt", "convert_openai_to_hf.py"),
        ("ggml-tiny.bin", "whisper.cpp"),
        ("x.nemo", "NeMo"),
        ("model.safetensors", "is a file: give the checkpoint's folder"),
        ("org/model.safetensors", "is a file: give the checkpoint's folder"),
    ],
)
def test_a_file_as_checkpoint(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(name, tmp_path)


def test_the_command_for_tensorflow_takes_any_path(tmp_path: Path) -> None:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    (folder / "tf_model.h5").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(str(folder))
    assert str(error.value).endswith(" '" + str(folder).replace("'", "'\"'\"'") + "'")


@pytest.mark.parametrize("path", ["../models/none", "./no such", "none"])
def test_a_wrong_path_tells_the_place_and_the_line(
    checkpoint: Path, refused: Refused, path: str
) -> None:
    recipe = Path("recipe.yaml")
    recipe.write_text(recipe.read_text().replace("checkpoint: checkpoint", f"checkpoint: {path}"))
    error = refused(3)
    place = (checkpoint.parent / path).resolve()
    assert f"recipe.yaml:2:13: checkpoint: there is no checkpoint folder {place}" in error
    assert "recipe.yaml" not in refused(3, "--checkpoint", path)


def test_a_path_that_may_be_a_hub_id(
    checkpoint: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(checkpoint.parent / "cache"))
    recipe = Path("recipe.yaml")
    recipe.write_text(recipe.read_text().replace("checkpoint: checkpoint", "checkpoint: demo/tiny"))
    error = refused(7)
    assert "recipe.yaml:2:13: checkpoint: " in error
    assert f"nor is there a folder {checkpoint.parent / 'demo' / 'tiny'}." in error


def test_configs_of_any_form(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": {"x": 1}}))
    with pytest.raises(CheckpointError, match="model_type None is not one of"):
        open_checkpoint(str(tmp_path))
