"""Say what a folder or file is that is no checkpoint of transformers, and what helps.

One table for local folders, files and repositories of the Hub. Only names and `config.json` are
looked at.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from typing import Any

from exporter.checkpoint.files import CONFIG, WHOLE, is_adapter
from exporter.errors import CheckpointError

_MAX_NAMES = 4096
_ORIGINAL = (
    "It cannot be converted back: give the checkpoint that it was made from, like "
    "openai/whisper-small."
)
_OPENAI = (
    "OpenAI's own are on the Hub, like openai/whisper-small. Convert another with "
    "convert_openai_to_hf.py of transformers' repository:\n"
    "python convert_openai_to_hf.py --checkpoint_path FILE --pytorch_dump_folder_path FOLDER "
    "--convert_preprocessor True"
)
_FROM = (
    'Convert it with transformers 4: python -c "import sys; from transformers import '
    "AutoModelForSpeechSeq2Seq as M; M.from_pretrained(sys.argv[1], from_{}=True)"
    '.save_pretrained(sys.argv[1])" PLACE'
)
_SPEECH = "exporter builds models that write text, like WhisperForConditionalGeneration."


@dataclass(frozen=True)
class _Kind:
    """What a place is, and what helps.

    It is found by `files`, patterns of which each matches a file, unless there are weights of
    transformers; by `keys` that `config.json` has; or by the end of a class in `architectures`.
    """

    what: str
    help: str
    files: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()

    def fits(self, names: Collection[str], config: Mapping[str, Any], *, whole: bool) -> bool:
        classes = config.get("architectures")
        known = [str(one) for one in classes] if isinstance(classes, list) else []
        matched = all(any(fnmatchcase(name, one) for name in names) for one in self.files)
        return (
            (bool(self.files) and not whole and matched)
            or (bool(self.keys) and all(key in config for key in self.keys))
            or any(one.endswith(self.architectures) for one in known if self.architectures)
        )


_CT2, _MLX, _TORCH = (
    "a model of CTranslate2 (faster-whisper)",
    "a model of MLX",
    "a file of torch, as of OpenAI's whisper",
)
_KINDS = (
    _Kind(_CT2, _ORIGINAL, files=("model.bin", "vocabulary.*"), keys=("lang_ids", "suppress_ids")),
    _Kind(_MLX, _ORIGINAL, files=("weights.npz",), keys=("n_audio_state", "n_mels")),
    _Kind(_MLX, _ORIGINAL, files=("weights*.safetensors",)),
    _Kind(
        "a classifier, which writes no text",
        _SPEECH,
        architectures=("ForAudioClassification", "ForSequenceClassification"),
    ),
    _Kind("an encoder alone", _SPEECH, architectures=("WhisperEncoder",)),
    _Kind("a decoder alone", _SPEECH, architectures=("WhisperForCausalLM", "WhisperDecoder")),
    _Kind("a model of whisper.cpp (ggml)", _ORIGINAL, files=("*ggml*.bin",)),
    _Kind("a GGUF file", _ORIGINAL, files=("*.gguf",)),
    _Kind("a model of NVIDIA NeMo", "exporter has no family for it.", files=("*.nemo",)),
    _Kind(
        "a training's state, sharded by DeepSpeed",
        "Join it: cd PLACE && python zero_to_fp32.py . . --safe_serialization",
        files=("zero_to_fp32.py",),
    ),
    _Kind(
        "a training's state, sharded by FSDP",
        "Join it: accelerate merge-weights PLACE PLACE",
        files=("*.distcp",),
    ),
    _Kind(
        "a training's state of PyTorch Lightning",
        "Load it there, and save the model in it with save_pretrained.",
        files=("*.ckpt",),
    ),
    _Kind(
        "a training's state without the model",
        "Give the folder that holds model.safetensors.",
        files=("optimizer.pt",),
    ),
    _Kind("a model of OpenVINO", _ORIGINAL, files=("openvino*.xml",)),
    _Kind("a model of Core ML (WhisperKit)", _ORIGINAL, files=("*.ml[mp]*/*",)),
    _Kind(
        "a folder of ONNX graphs",
        f"{_ORIGINAL}\nTo check the graphs: exporter doctor PLACE",
        files=("*.onnx",),
    ),
    _Kind("a model of TensorFlow", _FROM.format("tf"), files=("tf_model*.h5",)),
    _Kind("a model of Flax", _FROM.format("flax"), files=("flax_model*.msgpack",)),
    _Kind(_TORCH, _OPENAI, files=("*.pt",)),
    _Kind(_TORCH, _OPENAI, files=("*.pth",)),
)
_ARTIFACT = {"manifest.json", "recipe.yaml"}


def refuse_other_kinds(
    where: str,
    names: Collection[str],
    config: Mapping[str, Any] | None = None,
    *,
    place: str = "",
) -> None:
    """Raise CheckpointError if a place holds something else than a checkpoint of transformers.

    Args:
        where: The folder or repository, for messages.
        names: The names of its files; those in subfolders have slashes.
        config: Its `config.json`, if it is read already.
        place: The folder or repository as commands take it, if `where` is something else.
    """
    if set(names) >= _ARTIFACT or {name.partition("/")[2] for name in names} >= _ARTIFACT:
        msg = (
            f"{where}: this is an artifact of exporter, not a checkpoint.\n"
            "Use it with `exporter transcribe`; build from the checkpoint that it was made from."
        )
        raise CheckpointError(msg)
    whole = is_adapter(names) or any(name in names for name in WHOLE)
    _refuse(where, names, config or {}, place or where, whole=whole)
    below = [name.removesuffix(f"/{CONFIG}") for name in names if name.endswith(f"/{CONFIG}")]
    if below and CONFIG not in names and not whole:
        inner = sorted(below)[-1]
        msg = f"{where} holds checkpoints in folders: give one of them, like {where}/{inner}"
        raise CheckpointError(msg)


def refuse_file(path: Path) -> None:
    """Raise CheckpointError for a file that was given as a checkpoint."""
    _refuse(str(path), [path.name], {}, str(path), whole=False)
    msg = f"{path} is a file: give the checkpoint's folder, like {quote(str(path.parent))}"
    raise CheckpointError(msg)


def listed(folder: Path) -> list[str]:
    """Return names of files at a folder's top and in its subfolders, at most 4096."""
    inside = chain(folder.glob("*"), folder.glob("*/*"), folder.glob(f"*/*/{CONFIG}"))
    return [path.relative_to(folder).as_posix() for path in islice(_files(inside), _MAX_NAMES)]


def _files(paths: Iterator[Path]) -> Iterator[Path]:
    return (path for path in paths if path.is_file())


def _refuse(
    where: str, names: Collection[str], config: Mapping[str, Any], place: str, *, whole: bool
) -> None:
    kind = next((one for one in _KINDS if one.fits(names, config, whole=whole)), None)
    if kind:
        advice = kind.help.replace("PLACE", quote(place))
        msg = f"{where}: this is {kind.what}, not a checkpoint of transformers.\n{advice}"
        raise CheckpointError(msg)
