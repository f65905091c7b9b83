"""Repositories as there are on the Hub, made of one checkpoint: what each holds, and lacks."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.support.newer import as_transformers_5
from tests.support.tiny_ctc import make_ctc
from tests.support.tiny_speechbrain import make_speechbrain


def models(checkpoint: Path, root: Path) -> dict[str, Path]:
    """A folder below `root` for every kind of repository, by name."""
    return {
        "whole": _whole(checkpoint, root / "whole"),
        "shards": _sharded(checkpoint, root / "shards"),
        "torn": _torn(checkpoint, root / "torn"),
        "big": _big(checkpoint, root / "big"),
        "pickle": _pickled(checkpoint, root / "pickle"),
        "bare": _without("model.safetensors", checkpoint, root / "bare"),
        "deaf": _without("preprocessor_config.json", checkpoint, root / "deaf"),
        "adapter": _adapter(root / "adapter"),
        "newer": as_transformers_5(_whole(checkpoint, root / "newer")),
        "deaf_newer": _deaf_newer(checkpoint, root / "deaf_newer"),
        "brain": _speechbrain(root / "brain"),
        "attention": _with_attention(root / "attention"),
        "spoken": with_language_model(make_ctc(root / "spoken")),
    }


def with_language_model(folder: Path) -> Path:
    """Add what `Wav2Vec2ProcessorWithLM` saves, and files beside it that it does not read."""
    model = folder / "language_model"
    model.mkdir()
    attributes = {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}
    (model / "attrs.json").write_text(json.dumps(attributes))
    (model / "unigrams.txt").write_text("a\ncab\n")
    (model / "3gram.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    for name in ("notes.md", "._3gram.bin"):
        (model / name).write_bytes(b"not needed")
    (folder / "alphabet.json").write_text(json.dumps({"labels": ["", " "], "is_bpe": False}))
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {"processor_class": "Wav2Vec2ProcessorWithLM"}
    path.write_text(json.dumps(settings))
    return folder


def _speechbrain(folder: Path) -> Path:
    """A folder of SpeechBrain, with a language model of gigabytes that is not needed."""
    make_speechbrain(folder)
    for name in ("README.md", "brain.ckpt", "en_5gram.arpa", "example.wav"):
        (folder / name).write_bytes(b"not needed")
    return folder


def _with_attention(folder: Path) -> Path:
    """A model of SpeechBrain that is of another kind."""
    path = _speechbrain(folder) / "hyperparams.yaml"
    text = path.read_text().replace("modules:\n", "modules:\n    decoder: !new:a.Searcher\n")
    path.write_text(text)
    return folder


def _whole(checkpoint: Path, folder: Path) -> Path:
    """Weights in one file, and beside them much that is not needed."""
    shutil.copytree(checkpoint, folder)
    for name in ("README.md", "flax_model.msgpack", "pytorch_model.bin", "training_args.bin"):
        (folder / name).write_bytes(b"not needed")
    (folder / "model.fp32-00001-of-00002.safetensors").write_bytes(b"not needed")
    return folder


def _deaf_newer(checkpoint: Path, folder: Path) -> Path:
    """As transformers 5 saves it, without the feature extractor's settings."""
    as_transformers_5(_whole(checkpoint, folder))
    (folder / "processor_config.json").write_text("{}")
    return folder


def _without(name: str, checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    (folder / name).unlink()
    (folder / "flax_model.msgpack").write_bytes(b"not usable")
    return folder


def _torn(checkpoint: Path, folder: Path) -> Path:
    """Shards of which one is missing."""
    _sharded(checkpoint, folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


def _sharded(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for number, held in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in held}, folder / shard)
        index |= dict.fromkeys(held, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    # A second copy in another type, as openai/whisper-large-v3 has it.
    other = {name: shard.replace("model-", "model.fp32-") for name, shard in index.items()}
    (folder / "model.safetensors.index.fp32.json").write_text(json.dumps({"weight_map": other}))
    for shard in set(other.values()):
        (folder / shard).write_bytes(b"not needed")
    return folder


def _big(checkpoint: Path, folder: Path) -> Path:
    """Weights that take the library more than one of its chunks, which have 10 MiB."""
    shutil.copytree(checkpoint, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(48 << 20)
    return folder


def _adapter(folder: Path) -> Path:
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (folder / name).write_text("{}")
    return folder


def _pickled(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "training_args.bin").write_bytes(b"not needed")
    return folder
