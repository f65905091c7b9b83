"""Checks for single runtimes: onnxruntime-genai, sherpa-onnx, transformers.js.

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
    """Compare genai_config.json with the graphs' file names, inputs and outputs."""
    model = folder.config(_GENAI).get("model")
    for part in ("encoder", "decoder"):
        section = model.get(part) if isinstance(model, dict) else None
        if not isinstance(section, dict) or not isinstance(section.get("filename"), str):
            continue
        name = section["filename"]
        if name not in folder.files:
            fix = "Add the file, or correct its name."
            yield Finding("problem", _GENAI, f"names {name} as {part}, which is missing", fix)
        elif name in folder.models and (lost := _lost(folder, name, section)):
            what = f"names {', '.join(lost[:3])}, which {name} does not have: loading it fails"
            yield Finding("problem", _GENAI, what, "Write the graph's own names there.")


def _lost(folder: Folder, name: str, section: dict[str, Any]) -> list[str]:
    """Return the inputs and outputs that a section names and its graph lacks (`%d`: a layer)."""
    graph = folder.models[name].graph
    lost = []
    for key, there in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        table = section.get(key)
        names = table.values() if isinstance(table, dict) else ()
        lost += [n for n in names if isinstance(n, str) and n.replace("%d", "0") not in there]
    return lost


def sherpa_notes(folder: Folder) -> Iterator[Finding]:
    """Find encoders without the metadata that sherpa-onnx reads."""
    if layout(folder).name != "sherpa":
        return
    for model in encoders(folder):
        missing = sorted(_SHERPA - model.metadata) if "mel" in model.graph.inputs else []
        if missing:
            what = f"lacks {len(missing)} metadata keys of sherpa-onnx: {', '.join(missing[:4])}"
            fix = "Export again with sherpa-onnx' scripts/whisper/export-onnx.py."
            yield Finding("problem", model.name, what, fix)


def browser_data(folder: Folder) -> Iterator[Finding]:
    """Find external weights that the config does not declare: browsers would not load them."""
    section = folder.config().get(_BROWSER)
    declared = section.get("use_external_data_format") if isinstance(section, dict) else None
    if layout(folder).name != "transformers.js" or declared:
        return
    beside = [m.name for m in folder.models.values() if any(t.external for t in m.tensors())]
    if beside:
        what = f"does not declare the external weights of {len(beside)} graphs ({beside[0]})"
        fix = f'Add "{_BROWSER}": {{"use_external_data_format": true}} to it.'
        yield Finding("problem", "config.json", what, fix)


CHECKS = (genai_parts, sherpa_notes, browser_data)
