"""The int8 numbers that all targets store: symmetric weights, tensor by tensor.

One quantizer, so that a difference between two artifacts of a checkpoint is a difference of
runtimes. A `Plan` names the linear modules that become int8; `Weights` gives the tensors of the
planned model one at a time, so that memory follows the largest tensor and not the model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.errors import CheckpointError, RecipeError
from exporter.formats.storage import FLOATS


@dataclass(frozen=True)
class Int8:
    """How one module's weight becomes int8; `bits` is 7 where u8 x s8 products would saturate."""

    per_channel: bool = True
    bits: int = 8

    @property
    def limit(self) -> int:
        """The largest code: 127 with 8 bits, 63 with 7."""
        return int(2 ** (self.bits - 1)) - 1


@dataclass(frozen=True)
class Plan:
    """Linear modules by name that become int8; everything else stays as it is."""

    modules: Mapping[str, Int8] = field(default_factory=dict)


def plan_linears(
    model: nn.Module,
    *,
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
    scheme: Int8 = Int8(),
) -> Plan:
    """Choose the linear modules of `model` whose names match `include` and not `exclude`.

    Patterns are shell-style (`*.fc1`). One that matches no linear module is an error: it would
    silently quantize what its author meant to keep.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen: set[str] = set()
    for pattern in include:
        chosen.update(_matching(pattern, names))
    for pattern in exclude:
        chosen.difference_update(_matching(pattern, names))
    return Plan({name: scheme for name in names if name in chosen})


def quantize(
    blocks: Callable[[], Iterable[Tensor]], shape: tuple[int, ...], scheme: Int8
) -> tuple[Tensor, Tensor]:
    """Quantize a float weight [out, in], read as blocks of rows: symmetric, half to even.

    Gives the int8 codes [out, in] and the float32 scales, [out] or, without `per_channel`, [1]. A
    weight that holds NaN or infinity gives a scale that is not finite.
    """
    codes = torch.empty(shape, dtype=torch.int8)
    scales = torch.empty(shape[0] if scheme.per_channel else 1)
    if not scheme.per_channel:
        scales[0] = _scales(torch.cat([_peaks(block) for block in blocks()]).amax(), scheme)
    start, buffer = 0, torch.empty(0)  # one for all blocks: fresh memory costs as much as the work
    for block in blocks():
        if len(block) > len(buffer):
            buffer = torch.empty(block.shape)
        rows, end = buffer[: len(block)].copy_(block), start + len(block)
        if scheme.per_channel:
            scales[start:end] = _scales(_peaks(rows), scheme)
        own = scales[start:end] if scheme.per_channel else scales
        codes[start:end] = rows.div_(own[:, None]).round_()
        start = end
    return codes, scales


def _peaks(rows: Tensor) -> Tensor:
    peaks: Tensor = torch.linalg.vector_norm(rows, torch.inf, dim=1, dtype=torch.float32)
    return peaks


def _scales(peaks: Tensor, scheme: Int8) -> Tensor:
    """A row of zeros has the smallest scale instead of none."""
    return (peaks / scheme.limit).clamp_min(torch.finfo(torch.float32).tiny)


class Weights:
    """The tensors of a planned model by name, read and quantized when asked for.

    A planned module `m` has `m.weight` (int8 [out, in]) and `m.scale` (float32 [out] or [1]); all
    other tensors come as the checkpoint stores them. `tied` maps a module's parameter to the one
    that the checkpoint stores for it.
    """

    def __init__(self, checkpoint: Checkpoint, plan: Plan, tied: Mapping[str, str]) -> None:
        self._checkpoint = checkpoint
        self._plan = plan
        self._tied = tied
        self._codes: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        """The tensor `name` of the planned model.

        Scales are kept, since they are small; of codes only those last read, until asked for.
        """
        module, _, leaf = name.rpartition(".")
        if module not in self._plan.modules or leaf == "bias":
            return self._checkpoint.read(self._stored(name))
        if leaf == "weight":
            if module not in self._codes:
                self._quantize(module)
            return self._codes.pop(module)
        if module not in self._scales:
            self._quantize(module)
        return self._scales[module]

    def _quantize(self, module: str) -> None:
        stored = self._stored(f"{module}.weight")
        shape = self._checkpoint.tensors[stored].shape
        codes, scales = quantize(
            lambda: self._checkpoint.blocks(stored), shape, self._plan.modules[module]
        )
        self._checkpoint.require_finite(stored, scales)
        self._codes = {module: codes}
        self._scales[module] = scales

    def dtype(self, name: str) -> torch.dtype:
        """The type that `read` will give, without reading."""
        module, _, leaf = name.rpartition(".")
        if module in self._plan.modules and leaf != "bias":
            return torch.int8 if leaf == "weight" else torch.float32
        return FLOATS[self._checkpoint.tensors[self._stored(name)].dtype]

    def _stored(self, name: str) -> str:
        return name if name in self._checkpoint.tensors else self._tied.get(name, name)


def check_fit(checkpoint: Checkpoint, model: nn.Module, tied: Mapping[str, str]) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of its config's model.

    All differences are counted and the first of each kind is named.
    """
    stored = {name: info.shape for name, info in checkpoint.tensors.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [n for n in expected if n not in stored and tied.get(n) not in stored]
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
        raise CheckpointError(msg)


def _files_of(checkpoint: Checkpoint, names: list[str]) -> str:
    """Where the first of the tensors lies; without any, the only file, or the folder of several."""
    files = checkpoint.tensors[names[0]].files if names else checkpoint.weight_files
    return " with ".join(map(str, files)) if names or len(files) == 1 else str(checkpoint.folder)


def keep_narrow(model: nn.Module, weights: Weights) -> None:
    """Leave tables and convolution kernels in the 16 bits that the checkpoint stores.

    Linear weights have a precision of their own; biases and norms are too small to matter.
    """
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        stored = weights.dtype(name)
        table = parameter.ndim > 1 and not isinstance(module, nn.Linear)
        if table and stored.itemsize < parameter.itemsize:
            setattr(module, leaf, absent(tuple(parameter.shape), stored))


def absent(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    """A parameter on `meta`, whose data is read when its turn comes."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _matching(pattern: str, names: list[str]) -> Iterator[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        msg = f"the pattern {pattern!r} matches no linear module; names look like {names[0]}"
        raise RecipeError(msg)
    return iter(found)
