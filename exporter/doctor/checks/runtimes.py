"""What single runtimes want beside graphs: onnxruntime-genai, sherpa-onnx, transformers.js.

Sources: onnxruntime-genai's src/config.h, sherpa-onnx' csrc/offline-whisper-model.cc,
transformers.js' src/utils/model-loader.js.
"""

from collections.abc import Iterator
from typing import Any

from exporter.doctor.detect import encoders, layout
from exporter.doctor.finding import Finding
from exporter.doctor.folder import Folder

_GENAI = "genai_config.json"
_SHERPA = frozenset(
    (
        *("n_mels", "n_text_layer", "n_text_ctx", "n_text_state", "n_vocab", "sot", "eot"),
        *("blank_id", "translate", "transcribe", "is_multilingual", "no_timestamps", "no_speech"),
        "sot_sequence",
    )
)
_BROWSER = "transformers.js_config"


def genai_parts(folder: Folder) -> Iterator[Finding]:
    """Graphs that genai_config.json names, and their inputs and outputs by its names."""
    told = folder.config(_GENAI).get("model")
    for part in ("encoder", "decoder"):
        section = told.get(part) if isinstance(told, dict) else None
        if not isinstance(section, dict) or not isinstance(section.get("filename"), str):
            continue
        name = section["filename"]
        if name not in folder.files:
            mend = "Put the file there, or name it as it is called."
            yield Finding("problem", _GENAI, f"names {name} for its {part}: it is not here", mend)
        elif name in folder.models and (lost := _lost(folder, name, section)):
            what = f"names {', '.join(lost[:3])}, which {name} does not have: loading it fails"
            yield Finding("problem", _GENAI, what, "Rename them there as the graph calls them.")


def _lost(folder: Folder, name: str, section: dict[str, Any]) -> list[str]:
    """The inputs and outputs that a section names and its graph lacks; `%d` is a layer."""
    graph = folder.models[name].graph
    lost = []
    for key, there in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        table = section.get(key)
        told = table.values() if isinstance(table, dict) else ()
        lost += [t for t in told if isinstance(t, str) and t.replace("%d", "0") not in there]
    return lost


def sherpa_notes(folder: Folder) -> Iterator[Finding]:
    """The facts that sherpa-onnx reads out of the encoder itself."""
    if layout(folder).name != "sherpa":
        return
    for model in encoders(folder):
        missing = sorted(_SHERPA - model.metadata) if "mel" in model.graph.inputs else []
        if missing:
            what = f"lacks {len(missing)} of sherpa-onnx' notes: {', '.join(missing[:4])}"
            mend = "Export again with sherpa-onnx' scripts/whisper/export-onnx.py."
            yield Finding("problem", model.name, what, mend)


def browser_data(folder: Folder) -> Iterator[Finding]:
    """Weights beside graphs, which a browser fetches only if the config says so."""
    told = folder.config().get(_BROWSER)
    says = told.get("use_external_data_format") if isinstance(told, dict) else None
    if layout(folder).name != "transformers.js" or says:
        return
    beside = [m.name for m in folder.models.values() if any(t.external for t in m.tensors())]
    if beside:
        what = f"does not say that weights lie beside {len(beside)} graphs ({beside[0]})"
        mend = f'Add "{_BROWSER}": {{"use_external_data_format": true}} to it.'
        yield Finding("problem", "config.json", what, mend)


CHECKS = (genai_parts, sherpa_notes, browser_data)
