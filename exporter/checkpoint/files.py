"""Names of a checkpoint's weight files; those of the other files belong to its family."""

from collections.abc import Callable, Collection
from pathlib import Path

from exporter.errors import CheckpointError
from exporter.formats.config_json import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WHOLE = (WEIGHTS, INDEX, PICKLE, PICKLE_INDEX)
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")


def is_adapter(names: Collection[str]) -> bool:
    """Return True if files with these names are a LoRA adapter without full weights."""
    return {ADAPTER, ADAPTER_WEIGHTS} <= set(names) and not any(name in names for name in WHOLE)


def weight_names(
    names: Collection[str],
    where: str,
    bring: Callable[[str], Path],
    *,
    allow_pickle: bool = False,
) -> list[str]:
    """Return the weight files to read: one copy, safetensors if there are any.

    Args:
        names: The names of all files.
        where: The repository or folder, for messages.
        bring: Returns the path of a file, which it may download first.
        allow_pickle: Accept pickles where there are no safetensors.

    Returns:
        The names; an index comes before its shards.

    Raises:
        CheckpointError: There are no weights, a shard is missing, or they are pickles that were not
            allowed.
    """
    if is_adapter(names):
        return [ADAPTER_WEIGHTS]
    beside = [ADAPTER_WEIGHTS] if {ADAPTER, ADAPTER_WEIGHTS} <= set(names) else []
    chosen = next((name for name in WHOLE if name in names), None)
    if chosen is None:
        others = sorted(name for name in names if name.endswith(_WEIGHT_SUFFIXES))[:3]
        present = f" (found {', '.join(others)})" if others else ""
        msg = f"{where}: no {WEIGHTS}{present}.\nTake a repository of whole transformers weights."
        raise CheckpointError(msg)
    if chosen in (PICKLE, PICKLE_INDEX) and not allow_pickle:
        raise CheckpointError(pickle_refused(f"{where}: {chosen}"))
    if chosen not in (INDEX, PICKLE_INDEX):
        return [chosen, *beside]
    shards = _shards(bring(chosen))
    absent = [name for name in shards if name not in names or "/" in name]
    if not shards or absent:
        msg = (
            f"{where}: {chosen} names {', '.join(absent[:3]) or 'no files'}, which it does not hold"
        )
        raise CheckpointError(msg)
    return [chosen, *shards, *beside]


def pickle_refused(where: str) -> str:
    """Return the message about a pickle that was not allowed."""
    return (
        f"{where} is a pickle, and those are read only if you allow it: say `allow_pickle: true` "
        "in the recipe\n(build --set allow_pickle=true; inspect --allow-pickle), "
        "or take safetensors. Nothing in it is run, even so."
    )


def _shards(index: Path) -> list[str]:
    try:
        names = read_json(index)["weight_map"].values()
        return sorted({str(name) for name in names})
    except (KeyError, AttributeError) as error:
        msg = f"{index}: no `weight_map` ({type(error).__name__})"
        raise CheckpointError(msg) from error
