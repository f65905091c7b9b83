"""The names of a checkpoint's tensors, as transformers' own class expects them.

transformers adds the prefix of a model that was saved without its head. It does not remove the
names that wrappers put between the others, and would start such a model from random weights.
"""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from exporter.errors import CheckpointError
from exporter.formats.tensor_io import TensorInfo

# torch.compile, DataParallel and DistributedDataParallel, FSDP, activation checkpointing, Fabric.
_WRAPPERS = frozenset(
    {
        *("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
        "_forward_module",
    }
)


def unwrapped(name: str) -> str:
    """Return a tensor's name without those of wrappers, at any depth."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def canonical(
    tensors: Mapping[str, TensorInfo], prefix: str, bare: tuple[str, ...]
) -> dict[str, TensorInfo]:
    """Return the tensors by the names of the family's model.

    Args:
        tensors: The tensors as they are stored.
        prefix: The family's `prefix`, which may be missing from all names.
        bare: The family's `BARE`: how names begin without it.

    Raises:
        CheckpointError: Two names are the same without those of wrappers.
    """
    plain: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        short = unwrapped(name)
        if short in plain:
            msg = f"{info.file}: two tensors are {short}, one of them as {name}: remove one"
            raise CheckpointError(msg)
        plain[short] = info
    if any(name.startswith(prefix) for name in plain):
        return plain
    return {prefix + name if name.startswith(bare) else name: info for name, info in plain.items()}


def without(tensors: Mapping[str, TensorInfo], unused: Collection[str]) -> dict[str, TensorInfo]:
    """Return the tensors that match none of the patterns `unused`."""
    return {
        name: info
        for name, info in tensors.items()
        if not any(fnmatchcase(name, pattern) for pattern in unused)
    }


def explained(
    unexpected: Collection[str], expected: Collection[str], missing: Collection[str] = ()
) -> str:
    """Return why a checkpoint's names are others than the model's, and what to do; else ""."""
    first = next(iter(unexpected), "")
    if any(".lora_" in name or ".base_layer." in name for name in unexpected):
        return "they hold an adapter: merge it with peft's merge_and_unload, and save the result"
    if any(".blocks." in name for name in unexpected):
        return "these are OpenAI's names, also MLX's: give the checkpoint of transformers"
    if any(name.startswith("classifier.") for name in unexpected):
        return "it is a classifier, which writes no text"
    if any(name.startswith("lm_head.") for name in missing):
        return "it has no head: give a checkpoint that was fine-tuned to write text (ForCTC)"
    ends = (name for name in expected if first.endswith(f".{name}"))
    if own := max(ends, key=len, default=""):
        outer = first.removesuffix(own)
        return f"names begin with {outer!r}: save the model itself, not the one around it"
    return ""
