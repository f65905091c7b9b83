"""Checks of weight files of torch and transformers: headers, and code that loading would run."""

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np

from exporter.checkpoint.files import INDEX, PICKLE, PICKLE_INDEX, WEIGHTS
from exporter.doctor.finding import Finding
from exporter.doctor.folder import Folder
from exporter.doctor.values import finite
from exporter.errors import CheckpointError
from exporter.formats.safetensors_header import Entry
from exporter.system.progress import shown_bytes

_AGAIN = "Download the missing files: hf download ORG/NAME --local-dir FOLDER"
_FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
_HEAD, _EMBEDDING = "proj_out.weight", "model.decoder.embed_tokens.weight"
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d{1,6})\.")
_SMALL_BYTES = 1 << 20
_MOST_SCALES = 1024
_KENLM = b"mmap lm "  # how a binary language model of KenLM begins: `lm/binary_format.cc`


def shards(folder: Folder) -> Iterator[Finding]:
    """Find shards and tensors that an index names and the folder lacks."""
    for name in (INDEX, PICKLE_INDEX):
        if name not in folder.configs or _whole(folder, name):
            continue
        table = folder.configs[name].get("weight_map")
        if not isinstance(table, dict) or not table:
            yield Finding("problem", name, "has no weight_map", _AGAIN)
            continue
        wanted = sorted({str(shard) for shard in table.values()})
        absent = [shard for shard in wanted if "/" in shard or shard not in folder.files]
        if absent:
            what = f"names {len(wanted)} shards, {len(absent)} missing: {absent[0]}"
            yield Finding("problem", name, what, _AGAIN)
        lost = [
            tensor
            for tensor, shard in table.items()
            if str(shard) in folder.tensors and tensor not in folder.tensors[str(shard)]
        ]
        if lost:
            what = f"names {len(lost)} tensors that their shards lack: {lost[0]}"
            yield Finding("problem", name, what, _AGAIN)


def _whole(folder: Folder, index: str) -> bool:
    """Return True if the weights are also in one file, which loaders take first."""
    return {INDEX: WEIGHTS, PICKLE_INDEX: PICKLE}[index] in folder.files


def layers(folder: Folder) -> Iterator[Finding]:
    """Compare the number of layers in config.json and in the weights."""
    matches = [m for ts in folder.tensors.values() for name in ts if (m := _LAYER.match(name))]
    for part in ("encoder", "decoder"):
        stated = folder.number("config.json", f"{part}_layers")
        there = {int(match[2]) for match in matches if match[1] == part}
        if stated is not None and there and max(there) + 1 != stated:
            what = f"{stated} {part} layers, but the weights have {max(there) + 1}"
            yield Finding("problem", "config.json", what, "Use the config.json of these weights.")


def tied_twice(folder: Folder) -> Iterator[Finding]:
    """Find a head stored beside the embedding that it is tied to."""
    held = {
        name: (file, entry) for file, ts in folder.tensors.items() for name, entry in ts.items()
    }
    if not {_HEAD, _EMBEDDING} <= held.keys() or not folder.config().get("tie_word_embeddings", 1):
        return
    (file, entry), (_, embedding) = held[_HEAD], held[_EMBEDDING]
    if (entry.dtype, entry.shape) == (embedding.dtype, embedding.shape):
        what = (
            f"stores {_HEAD} beside {_EMBEDDING}, to which it is tied: "
            f"{shown_bytes(entry.end - entry.begin)} that loaders ignore"
        )
        yield Finding("warning", file, what, "Load it in transformers and save_pretrained again.")


def scales(folder: Folder) -> Iterator[Finding]:
    """Find scales of quantized weights that are empty or not finite."""
    for file, tensors in folder.tensors.items():
        named = ((name, entry) for name, entry in tensors.items() if "scale" in name.lower())
        for name, entry in islice(named, _MOST_SCALES):
            if not _sound(folder, file, entry):
                what = f"the scale {name} is empty, or holds NaN or infinity"
                yield Finding("problem", file, what, "Quantize again, from finite weights.")
                break


def _sound(folder: Folder, file: str, entry: Entry) -> bool:
    size = entry.end - entry.begin
    if entry.dtype not in _FLOATS or size > _SMALL_BYTES:
        return True
    return finite(folder.path / file, entry.begin, size, np.dtype(_FLOATS[entry.dtype]))


def pickles(folder: Folder) -> Iterator[Finding]:
    """Check torch's weight files opcode by opcode, without loading them."""
    for name in folder.matching(".bin"):
        others = f"{name.removesuffix('.bin')}.xml" in folder.files or name == "model.bin"
        # Files of OpenVINO and CTranslate2, language models of KenLM, and torch's settings.
        if others or _is_kenlm(folder, name) or name.endswith("training_args.bin"):
            continue
        if name.rpartition("/")[2].startswith("pytorch_model") and name not in folder.left:
            from exporter.formats.torch_pickle import (
                pickled_infos,  # imports torch, which no other check needs
            )

            try:
                pickled_infos(folder.path / name)
            except CheckpointError as error:
                what = str(error).splitlines()[0].removeprefix(f"{folder.path / name}: ")
                yield Finding("problem", name, what, "Use safetensors of the same model.")
                continue
        what = "is a pickle: a careless loader runs the code in it"
        fix = "Load it in transformers and save_pretrained, which writes safetensors."
        yield Finding("warning", name, what, fix)


def _is_kenlm(folder: Folder, name: str) -> bool:
    if name in folder.left:
        return False
    with (folder.path / name).open("rb") as file:
        return file.read(len(_KENLM)) == _KENLM


CHECKS = (shards, layers, tied_twice, scales, pickles)
