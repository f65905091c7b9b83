"""Detect which tool wrote a folder, and the role of each of its graphs.

Sources of the names: optimum-onnx's modeling_seq2seq.py, transformers.js' session_config.js,
onnxruntime-genai's builders/whisper.py, sherpa-onnx' scripts/whisper, CTranslate2's converters.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from exporter.artifact.manifest import MANIFEST
from exporter.checkpoint.files import ADAPTER
from exporter.checkpoint.speechbrain import is_speechbrain
from exporter.doctor.folder import Folder
from exporter.formats.onnx_reader import Model
from exporter.system.progress import shown_bytes

_INDEXES = (".safetensors.index.json", ".bin.index.json")
_PART = re.compile(
    r"(?P<role>encoder|decoder_model_merged|decoder_with_past|decoder|model)(_model)?"
    r"(?P<variant>[\w.-]*?)\.onnx"
)


@dataclass(frozen=True)
class Layout:
    """A tool's file layout, and the test that recognises it."""

    name: str
    title: str
    fits: Callable[[Folder], bool]


LAYOUTS = (
    Layout("artifact", "an artifact of exporter", lambda folder: MANIFEST in folder.files),
    Layout(
        "genai", "onnxruntime-genai's export", lambda folder: "genai_config.json" in folder.files
    ),
    Layout(
        "sherpa",
        "sherpa-onnx' export",
        lambda folder: bool(folder.matching("tokens.txt") and folder.matching(".onnx")),
    ),
    Layout(
        "transformers.js",
        "an ONNX export in the layout of transformers.js",
        lambda folder: any(name.startswith("onnx/") for name in folder.matching(".onnx")),
    ),
    Layout("optimum", "an ONNX export in optimum's layout", lambda f: bool(f.matching(".onnx"))),
    Layout(
        "openvino",
        "an OpenVINO export",
        lambda folder: bool(folder.matching("_model.xml")),
    ),
    Layout("ctranslate2", "CTranslate2's conversion", lambda folder: "model.bin" in folder.files),
    Layout(
        "checkpoint",
        "a transformers checkpoint",
        lambda folder: (
            bool(folder.matching(".safetensors", "pytorch_model.bin", *_INDEXES))
            and ADAPTER not in folder.files
        ),
    ),
    Layout("adapter", "a LoRA adapter", lambda folder: ADAPTER in folder.files),
    Layout("package", "compiled torch packages", lambda folder: bool(folder.matching(".pt2"))),
    Layout("speechbrain", "a SpeechBrain model", lambda folder: is_speechbrain(folder.files)),
    Layout(
        "torch", "torch's own file", lambda folder: bool(folder.matching(".pt", ".pth", ".ckpt"))
    ),
    Layout("nothing", "no known speech model", lambda _folder: True),
)


def layout(folder: Folder) -> Layout:
    """Return the first layout that fits."""
    return next(each for each in LAYOUTS if each.fits(folder))


def described(folder: Folder) -> str:
    """Return a folder's layout, model and size in one line."""
    config = folder.config()
    title = layout(folder).title
    if isinstance(config.get("model_type"), str):
        title += f" of {config['model_type']}"
    facts = []
    layers = [folder.number("config.json", f"{each}_layers") for each in ("encoder", "decoder")]
    if None not in layers:
        facts.append(f"{layers[0]} encoder and {layers[1]} decoder layers")
    if mels := folder.number("config.json", "num_mel_bins"):
        facts.append(f"{mels} mel bins")
    return f"{title}: {', '.join([*facts, shown_bytes(folder.size_bytes)])}"


@dataclass(frozen=True)
class Part:
    """A graph's role: encoder, decoder, decoder_with_past, decoder_model_merged, model.

    Parts of one `place` and `variant` (like `_quantized`) are meant to work together.
    """

    role: str
    place: str
    variant: str
    model: Model


def parts(folder: Folder) -> list[Part]:
    """Return the graphs whose file names show a role."""
    graph_parts = []
    for name, model in folder.models.items():
        path = PurePosixPath(name)
        if match := _PART.fullmatch(path.name):
            graph_parts.append(Part(match["role"], str(path.parent), match["variant"], model))
    return graph_parts


def sets(folder: Folder) -> dict[tuple[str, str], dict[str, Model]]:
    """Group the parts by folder and variant; each group maps roles to graphs."""
    groups: dict[tuple[str, str], dict[str, Model]] = {}
    for part in parts(folder):
        groups.setdefault((part.place, part.variant), {})[part.role] = part.model
    return groups


def encoders(folder: Folder) -> list[Model]:
    """Return the encoder graphs."""
    return [m for name, m in folder.models.items() if "encoder" in PurePosixPath(name).name]


def decoders(folder: Folder) -> list[Model]:
    """Return the decoder graphs."""
    return [m for name, m in folder.models.items() if "decoder" in PurePosixPath(name).name]
