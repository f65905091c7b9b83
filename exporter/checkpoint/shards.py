"""Find the files that hold a checkpoint's weights: one, or shards with an index.

A tensor in two files, or in another file than the index says, is refused, because its values would
be ambiguous.
"""

from pathlib import Path

from exporter.checkpoint.files import INDEX, PICKLE, PICKLE_INDEX, WEIGHTS, pickle_refused
from exporter.errors import CheckpointError
from exporter.formats.config_json import is_regular_file, read_json
from exporter.formats.tensor_io import TensorInfo, safetensors_infos
from exporter.formats.torch_pickle import pickled_infos


def tensor_infos(folder: Path, *, allow_pickle: bool) -> dict[str, TensorInfo]:
    """Read the headers of all weight files, safetensors where there are any.

    Args:
        folder: The checkpoint.
        allow_pickle: Read `pytorch_model.bin` where there are no safetensors.

    Returns:
        The tensors by name.

    Raises:
        CheckpointError: Weights are missing, damaged, contradictory, or pickles that were not
            allowed.
    """
    for whole, index in ((WEIGHTS, INDEX), (PICKLE, PICKLE_INDEX)):
        if is_regular_file(folder / whole):
            return file_infos(folder / whole, allow_pickle=allow_pickle)
        if is_regular_file(folder / index):
            return _indexed(folder / index, Path(whole).suffix, allow_pickle=allow_pickle)
    msg = f"{folder}: no {WEIGHTS} and no {PICKLE}, whole or in shards with an index"
    raise CheckpointError(msg)


def file_infos(path: Path, *, allow_pickle: bool) -> dict[str, TensorInfo]:
    """Read the header of one weight file; raises CheckpointError as `tensor_infos` does."""
    if path.suffix == ".safetensors":
        return safetensors_infos(path)
    if not allow_pickle:
        raise CheckpointError(pickle_refused(str(path)))
    return pickled_infos(path)


def _indexed(index: Path, suffix: str, *, allow_pickle: bool) -> dict[str, TensorInfo]:
    weight_map = _weight_map(index)
    infos: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / shard
        if Path(shard).name != shard or path.suffix != suffix or not path.is_file():
            msg = f"{index}: names the shard {shard!r}, which is not in the folder"
            raise CheckpointError(msg)
        shard_infos = file_infos(path, allow_pickle=allow_pickle)
        for name in sorted(infos.keys() & shard_infos.keys()):
            msg = f"{path}: tensor {name} is in {infos[name].file.name} too: fetch both again"
            raise CheckpointError(msg)
        infos |= shard_infos
    for name, shard in weight_map.items():
        if name in infos and infos[name].file.name != shard:
            msg = f"{index}: says that {name} is in {shard}, but it is in {infos[name].file.name}"
            raise CheckpointError(msg)
    return infos


def _weight_map(index: Path) -> dict[str, str]:
    names = read_json(index).get("weight_map")
    if (
        not isinstance(names, dict)
        or not names
        or not all(isinstance(shard, str) for shard in names.values())
    ):
        msg = f"{index}: no `weight_map` of tensors to files"
        raise CheckpointError(msg)
    return names
