"""Check that a checkpoint's tensors fit the model that its config describes."""

from collections.abc import Mapping

from torch import nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.checkpoint.names import explained
from exporter.errors import CheckpointError
from exporter.formats.tensor_io import FLOATS


def check_fit(checkpoint: Checkpoint, model: nn.Module, tied: Mapping[str, str]) -> None:
    """Check that a checkpoint's tensors are exactly those of its config's model.

    Args:
        checkpoint: The checkpoint.
        model: The model of its config, whose weights need no values.
        tied: Names of tied parameters, each with the name that it shares its values with.

    Raises:
        CheckpointError: With the number of differences and the first of each kind.
    """
    stored = {name: info.shape for name, info in checkpoint.tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shared = tied if checkpoint.config.get("tie_word_embeddings", True) else {}
    missing = [n for n in expected if n not in stored and shared.get(n) not in stored]
    unexpected = [n for n in stored if n not in expected]
    wrong = [n for n in stored if n in expected and stored[n] != expected[n]]
    odd = [n for n, info in checkpoint.tensors.items() if info.dtype not in FLOATS]
    problems = []
    if odd:
        kind = checkpoint.tensors[odd[0]].dtype
        problems.append(f"{len(odd)} of type {kind}, not {' or '.join(FLOATS)} (first: {odd[0]})")
    if missing:
        problems.append(f"{len(missing)} missing (first: {missing[0]})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected (first: {unexpected[0]})")
    if wrong:
        first = wrong[0]
        shapes = f"{list(stored[first])}, config.json says {list(expected[first])}"
        problems.append(f"{len(wrong)} of another shape (first: {first} is {shapes})")
    if problems:
        where = _files_of(checkpoint, [*odd, *unexpected, *wrong])
        msg = f"{where}: the tensors do not fit config.json: {'; '.join(problems)}"
        if why := explained(unexpected, expected, missing):
            msg += f".\n{why[0].upper()}{why[1:]}."
        raise CheckpointError(msg)


def _files_of(checkpoint: Checkpoint, names: list[str]) -> str:
    """Return the files of the first tensor; without names, the only file or the folder."""
    files = checkpoint.tensors[names[0]].files if names else checkpoint.weight_files
    return " with ".join(map(str, files)) if names or len(files) == 1 else str(checkpoint.folder)
