"""Checkpoints damaged in every way that disks, networks and hands damage them.

Each kind of damage takes a whole checkpoint's folder and a source of chance, and gives what the
error has to name: the file and, where it concerns one, the tensor.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Told = tuple[str, ...]
Damage = Callable[[Path, random.Random], Told]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG = "config.json"
CONFIGS = (CONFIG, "generation_config.json", "preprocessor_config.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json")


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and data."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def with_header(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    """Write a safetensors file, however wrong its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def tensor_in(header: dict[str, Any], source: random.Random) -> str:
    """The name of some tensor."""
    return source.choice(sorted(header.keys() - {"__metadata__"}))


def means_the_same(folder: Path, pristine: Path) -> bool:
    """Whether the tensors of both are the same, their places and values too."""
    try:
        (one, data), (other, same) = (header_of(each / WEIGHTS) for each in (folder, pristine))
    except ValueError:
        return False
    plain = ({n: t for n, t in h.items() if n != "__metadata__"} for h in (one, other))
    return next(plain) == next(plain) and data == same


# The weights' file


def truncated(folder: Path, source: random.Random) -> Told:
    size = (folder / WEIGHTS).stat().st_size
    end = source.choice([source.randrange(size), source.randrange(9_000), size - 1])
    os.truncate(folder / WEIGHTS, end)
    return (WEIGHTS,)


def appended(folder: Path, source: random.Random) -> Told:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(source.randbytes(source.randrange(1, 5_000)))
    return (WEIGHTS,)


def flipped_header(folder: Path, source: random.Random) -> Told:
    whole = bytearray((folder / WEIGHTS).read_bytes())
    bit = source.randrange(8 * (8 + int.from_bytes(whole[:8], "little")))
    whole[bit // 8] ^= 1 << bit % 8
    (folder / WEIGHTS).write_bytes(whole)
    return (WEIGHTS,)


def edited_header(folder: Path, source: random.Random) -> Told:
    """One entry is false: its places, its type or its shape."""
    header, data = header_of(folder / WEIGHTS)
    entry = header[tensor_in(header, source)]
    begin, end = entry["data_offsets"]
    lies: list[dict[str, Any]] = [
        *(
            {"data_offsets": places}
            for places in ([begin + 4, end], [begin, end + 4], [end, begin])
        ),
        *({"data_offsets": places} for places in ([begin, end, end], [], [-4, end], "x", [begin])),
        {"data_offsets": [begin + len(data), end + len(data)]},
        *({"dtype": kind} for kind in ("F16", "BF16", "F64", "I8", "F8_E4M3", "F33", "", 5, None)),
        *({"shape": shape} for shape in ([*entry["shape"], 2], [-1], [2**63], "x", [0], [1.5])),
    ]
    entry |= source.choice(lies)
    with_header(folder / WEIGHTS, header, data)
    return (WEIGHTS,)


def reordered_shape(folder: Path, source: random.Random) -> Told:
    """As many values as before, in another shape."""
    header, data = header_of(folder / WEIGHTS)
    name = tensor_in(header, source)
    header[name]["shape"] = [1, *header[name]["shape"]]
    with_header(folder / WEIGHTS, header, data)
    return WEIGHTS, name, CONFIG


def integers(folder: Path, source: random.Random) -> Told:
    """A type of the same width that no weight has."""
    header, data = header_of(folder / WEIGHTS)
    name = tensor_in(header, source)
    header[name]["dtype"] = source.choice(["I32", "U32"])
    with_header(folder / WEIGHTS, header, data)
    return WEIGHTS, name


def swapped_places(folder: Path, source: random.Random) -> Told:
    """Two tensors of different shapes, each at the place of the other."""
    header, data = header_of(folder / WEIGHTS)
    names = sorted(header.keys() - {"__metadata__"})
    one, other = source.sample(names, 2)
    while header[one]["shape"] == header[other]["shape"]:
        one, other = source.sample(names, 2)
    header[one], header[other] = header[other], header[one]
    with_header(folder / WEIGHTS, header, data)
    return (WEIGHTS, CONFIG)


def named_twice(folder: Path, source: random.Random) -> Told:
    """Two entries of one name: which is meant nobody can tell."""
    header, data = header_of(folder / WEIGHTS)
    one, other = source.sample(sorted(header.keys() - {"__metadata__"}), 2)
    text = json.dumps(header).replace(json.dumps(other) + ":", json.dumps(one) + ":")
    with_header(folder / WEIGHTS, text.encode(), data)
    return (WEIGHTS,)


def renamed(folder: Path, source: random.Random) -> Told:
    header, data = header_of(folder / WEIGHTS)
    name = tensor_in(header, source)
    other = source.choice([f"{name}.copy", name[1:], name.upper(), f"module.{name}", "x", "\n"])
    header = {other if key == name else key: value for key, value in header.items()}
    with_header(folder / WEIGHTS, header, data)
    return WEIGHTS, CONFIG, name


def dropped(folder: Path, source: random.Random) -> Told:
    tensors = load_file(folder / WEIGHTS)
    name = source.choice(sorted(tensors))
    del tensors[name]
    save_file(tensors, folder / WEIGHTS)
    return WEIGHTS, CONFIG, name


def reshaped(folder: Path, source: random.Random) -> Told:
    """A tensor with rows too many, or too few."""
    tensors = load_file(folder / WEIGHTS)
    name = source.choice(sorted(tensors))
    rows = len(tensors[name])
    count = source.choice([1, rows - 1, rows + 1, 2 * rows])
    tensors[name] = np.resize(tensors[name], (count, *tensors[name].shape[1:]))
    save_file(tensors, folder / WEIGHTS)
    return WEIGHTS, CONFIG, name


def filled(folder: Path, source: random.Random) -> Told:
    """One value, some or all of a tensor's are no numbers."""
    tensors = load_file(folder / WEIGHTS)
    name = source.choice(sorted(tensors))
    values = tensors[name].reshape(-1)
    begin = source.randrange(values.size)
    count = source.choice([1, 2, source.randrange(values.size), values.size])
    values[begin : begin + count] = source.choice([np.nan, np.inf, -np.inf])
    save_file(tensors, folder / WEIGHTS)
    return WEIGHTS, name


def sharded(folder: Path, source: random.Random) -> dict[str, str]:
    """Cut the weights into a few files; give the index."""
    tensors, count = load_file(folder / WEIGHTS), source.randrange(2, 5)
    (folder / WEIGHTS).unlink()
    shards = [f"model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
    index = {name: shards[place % count] for place, name in enumerate(sorted(tensors))}
    for shard in shards:
        save_file({n: tensors[n] for n, where in index.items() if where == shard}, folder / shard)
    return index


def indexed(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def missing_shard(folder: Path, source: random.Random) -> Told:
    index = sharded(folder, source)
    indexed(folder, index)
    shard = source.choice(sorted(set(index.values())))
    (folder / shard).unlink()
    return INDEX, shard


def truncated_shard(folder: Path, source: random.Random) -> Told:
    index = sharded(folder, source)
    indexed(folder, index)
    shard = source.choice(sorted(set(index.values())))
    os.truncate(folder / shard, source.randrange((folder / shard).stat().st_size))
    return (shard,)


def wrong_index(folder: Path, source: random.Random) -> Told:
    """The index names files that are not there, or says nothing that could be one."""
    index = sharded(folder, source)
    name = source.choice(sorted(index))
    shard = source.choice(["x.safetensors", "../x", "/x", "", ".", CONFIG])
    indexed(folder, source.choice([index | {name: shard}, [], None, {name: 5}, {}, {name: shard}]))
    return (INDEX,)


def wrong_shard(folder: Path, source: random.Random) -> Told:
    """The index says of a tensor that it is in another file than it is."""
    index = sharded(folder, source)
    name = source.choice(sorted(index))
    other = source.choice(sorted(set(index.values()) - {index[name]}))
    indexed(folder, index | {name: other})
    return INDEX, name, other


def in_two_shards(folder: Path, source: random.Random) -> Told:
    """A tensor is in two files, with other values: which is meant nobody can tell."""
    index = sharded(folder, source)
    indexed(folder, index)
    name = source.choice(sorted(index))
    other = source.choice(sorted(set(index.values()) - {index[name]}))
    value = load_file(folder / index[name])[name]
    save_file({**load_file(folder / other), name: value + 1}, folder / other)
    return name, other


def any_file(source: random.Random) -> str:
    return source.choice([WEIGHTS, *CONFIGS, *TOKENIZER])


def emptied(folder: Path, source: random.Random) -> Told:
    name = any_file(source)
    (folder / name).write_bytes(b"")
    return (name,)


def a_folder(folder: Path, source: random.Random) -> Told:
    return replaced(folder, source, lambda path: path.mkdir())


def a_dangling_link(folder: Path, source: random.Random) -> Told:
    return replaced(folder, source, lambda path: path.symlink_to("nowhere"))


def a_circle_of_links(folder: Path, source: random.Random) -> Told:
    return replaced(folder, source, lambda path: path.symlink_to(path.name))


def a_pipe(folder: Path, source: random.Random) -> Told:
    """Reading one would never end."""
    return replaced(folder, source, os.mkfifo)


def replaced(folder: Path, source: random.Random, by: Callable[[Path], object]) -> Told:
    name = any_file(source)
    (folder / name).unlink()
    by(folder / name)
    return (name,)


# Configuration


def half_a_json(folder: Path, source: random.Random) -> Told:
    name = source.choice([*CONFIGS, *TOKENIZER])
    text = (folder / name).read_bytes().rstrip()
    (folder / name).write_bytes(text[: source.randrange(len(text))])
    return (name,)


def garbage_in_a_json(folder: Path, source: random.Random) -> Told:
    name = source.choice([*CONFIGS, *TOKENIZER])
    text = (folder / name).read_bytes()
    at = source.randrange(len(text))
    piece = source.choice([b"\xff\xfe", b"\xc3\x28", b"\x00", b"\x80"])
    (folder / name).write_bytes(text[:at] + piece + text[at:])
    return (name,)


WRONG: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("d_model", "encoder_ffn_dim", "decoder_ffn_dim", "vocab_size", "num_mel_bins"),
        (0, -1, 1, 63, 65, 10**7, "64", None, [64], 64.5, True, {}),
    ),
    **dict.fromkeys(
        ("encoder_layers", "decoder_layers"), (0, -1, 1, 3, 1000, 10**9, "2", None, [])
    ),
    **dict.fromkeys(
        ("encoder_attention_heads", "decoder_attention_heads"),
        (0, -2, 3, 5, 63, 128, 10**9, "2", None),
    ),
    **dict.fromkeys(
        ("max_source_positions", "max_target_positions"), (0, -1, 1, 199, 10**10, "x", None)
    ),
    "model_type": ("whisperer", "wav2vec2", "", 5, None, ["whisper"]),
    "activation_function": ("gelux", 5, None, ""),
}


def edited_config(folder: Path, source: random.Random) -> Told:
    """A number, or a word, that these weights cannot have."""
    key = source.choice(sorted(WRONG))
    config = json.loads((folder / CONFIG).read_text())
    config[key] = source.choice([value for value in WRONG[key] if value != config.get(key)])
    (folder / CONFIG).write_text(json.dumps(config))
    return (CONFIG,)


def another_vocabulary(folder: Path, source: random.Random) -> Told:
    """A tokenizer with more words than the model has, or with others at the special places."""
    tokens = json.loads((folder / "vocab.json").read_text())
    if source.random() < 0.5:
        tokens |= {f"word-{n}": len(tokens) + n for n in range(source.randrange(400, 2_000))}
    else:
        shift = source.randrange(1, 50)
        tokens = {token: number + shift for token, number in tokens.items()}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    return ("vocab.json",)


KINDS: dict[str, Damage] = {
    kind.__name__: kind
    for kind in (
        *(truncated, appended, flipped_header, edited_header, reordered_shape, integers),
        *(swapped_places, named_twice, renamed, dropped, reshaped, filled, missing_shard),
        *(truncated_shard, wrong_index, wrong_shard, in_two_shards, emptied, a_folder),
        *(a_dangling_link, a_circle_of_links, a_pipe, half_a_json, garbage_in_a_json),
        *(edited_config, another_vocabulary),
    )
}


def damage(pristine: Path, folder: Path, number: int) -> tuple[str, Told]:
    """Make the `number`th damaged checkpoint at `folder`: all kinds in turn, each time another."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    kind = list(KINDS)[number % len(KINDS)]
    return kind, KINDS[kind](folder, random.Random(number))
