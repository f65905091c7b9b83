"""What a device keeps between steps: caches, the audio's keys and values, the state of rows.

Tensors stay where they are, because recorded steps find them by their addresses.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperConfig

from exporter.families.graph import FixedInputs, GraphFunction
from exporter.families.whisper.graphs.device import RING, RULED, STATE
from exporter.runtime.whisper.rules import Rules

FIELDS = (*STATE, "slots", "window")
"""The integers of a row, in the order in which they are kept."""

FOREVER = 2**31 - 1
"""A limit that no row reaches."""

_ALIGNED = 4  # int32 numbers: compiled graphs want tensors at multiples of 16 bytes

Numbers = NDArray[np.int32]


class Transfer:
    """Copies small arrays between the host and a device, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waits = device.type == "cuda"

    def upload(self, array: NDArray[Any]) -> Tensor:
        """Return an array as a tensor on the device."""
        tensor = torch.from_numpy(array)
        if self._waits:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def download(self, *tensors: Tensor) -> Callable[[], list[NDArray[Any]]]:
        """Begin to copy tensors; what is returned waits for their contents of now."""
        if not self._waits:
            copies = [tensor.clone().numpy() for tensor in tensors]
            return lambda: copies
        pinned = [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
            for t in tensors
        ]
        event = torch.cuda.Event()
        event.record()

        def wait() -> list[NDArray[Any]]:
            event.synchronize()
            return [each.numpy() for each in pinned]

        return wait


class Memory:
    """The caches of a number of slots, and keys and values of a number of windows.

    Attributes:
        tensors: What graphs take besides the state of rows, by name.
        slots: The number of slots.
        windows: The number of windows.
        transfer: Copies from and to its device.
    """

    def __init__(
        self,
        functions: Mapping[str, GraphFunction],
        config: WhisperConfig,
        dtype: torch.dtype,
        device: torch.device,
        *,
        narrow: bool,
    ) -> None:
        self.transfer = Transfer(device)
        self.slots = self.windows = 0
        self.tensors: dict[str, Tensor] = {}
        self._functions, self._device = functions, device
        self._dtype, self._narrow = dtype, narrow
        self._layers: int = config.decoder_layers
        self._heads: int = config.decoder_attention_heads
        self._dim: int = config.d_model // self._heads
        self._positions: int = config.max_target_positions
        self._source: int = config.max_source_positions
        self._rows: dict[int, Rows] = {}
        with torch.inference_mode(mode=False):
            self.tensors["bias"] = torch.zeros(3, config.vocab_size, device=device)
            self.tensors["bounds"] = self._integers(3)

    @property
    def caches(self) -> dict[str, Tensor]:
        """What a decoder's layers take: caches, their ancestors, and the audio."""
        return {n: t for n, t in self.tensors.items() if n not in ("bias", "bounds")}

    @property
    def audio(self) -> dict[str, Tensor]:
        """The keys and values of the windows, with their scales if they are int8."""
        return {n: t for n, t in self.tensors.items() if n.startswith("cross.")}

    def reserve(self, slots: int, windows: int) -> None:
        """Make room for so many slots and windows; recorded steps are lost if there was less."""
        if slots > self.slots:
            shape = (slots, self._heads, self._positions, self._dim)
            self._grow("cache", ("key", "value"), shape, self._dtype)
            self.slots = slots
            with torch.inference_mode(mode=False):
                ancestors = self._integers(slots, self._positions)
                ancestors.copy_(self._own()[:, None])
            if "ancestors" in self.tensors:
                former = self.tensors["ancestors"]
                ancestors[: len(former)] = former
            self.tensors["ancestors"] = ancestors
        if windows > self.windows:
            shape = (windows, self._heads, self._source, self._dim)
            self._grow("cross", ("key", "value"), shape, self._cross_dtype)
            if self._narrow:
                self._grow("cross", ("key_scale", "value_scale"), shape[:3], torch.float32)
            self.windows = windows

    def rows(self, count: int) -> "Rows":
        """Return the state of so many rows; the same each time."""
        if count not in self._rows:
            self._rows[count] = Rows(count, self, self._functions)
        return self._rows[count]

    def own_ancestors(self) -> None:
        """Let every slot hold all of its own positions."""
        self.tensors["ancestors"].copy_(self._own()[:, None])

    def permute(self, sources: Tensor, length: int) -> None:
        """Let slot s continue what slot sources[s] has at the positions before `length`."""
        ancestors, count = self.tensors["ancestors"], len(sources)
        continued = ancestors.index_select(0, sources)[:, :length]
        ancestors[:count] = self._own()[:count, None]
        ancestors[:count, :length] = continued

    def set_rules(self, rules: Rules) -> None:
        """Set what `graphs.device.allowed` suppresses."""
        size = self.tensors["bias"].shape[1]
        bias = np.zeros((3, size), np.float32)
        for row, tokens in enumerate((rules.never, rules.not_first, rules.ends)):
            bias[row, list(tokens)] = -np.inf
        self.tensors["bias"].copy_(self.transfer.upload(bias))
        bounds = np.array(_bounds(rules, size), np.int32)
        self.tensors["bounds"].copy_(self.transfer.upload(bounds))

    @property
    def _cross_dtype(self) -> torch.dtype:
        return torch.int8 if self._narrow else self._dtype

    def _own(self) -> Tensor:
        return torch.arange(self.slots, dtype=torch.int32, device=self._device)

    def _integers(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=self._device)

    def _grow(
        self, kind: str, leaves: Sequence[str], shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        """Replace tensors of all layers by larger ones with the same contents."""
        self._rows.clear()
        for name in (f"{kind}.{layer}.{leaf}" for layer in range(self._layers) for leaf in leaves):
            with torch.inference_mode(mode=False):
                grown = torch.zeros(shape, dtype=dtype, device=self._device)
            if (former := self.tensors.get(name)) is not None:
                grown[: len(former)] = former
            self.tensors[name] = grown


def _bounds(rules: Rules, size: int) -> list[int]:
    """Return `bounds` of `graphs.device.allowed`."""
    times = rules.times
    if times is None:
        return [size + 1, size + 1, rules.end]
    last = size if times.max_initial is None else times.first + times.max_initial
    return [times.first, last, times.end]


class Rows:
    """The state of a number of rows, and the step that advances it.

    Rows are idle until they are set. An idle row says nothing, and writes to the last position of
    its slot, which no row has read before it is overwritten.

    Attributes:
        count: The number of rows.
        turn: The place in the ring that the next step writes.
        state: The rows' integers, as views by name.
        ring: The tokens of the last steps, int32 [RING, rows].
        logprob: The sum of log-probabilities of each row's tokens, float32 [rows].
    """

    def __init__(self, count: int, memory: Memory, functions: Mapping[str, GraphFunction]) -> None:
        self.count, self.turn = count, 0
        self._functions, self._transfer = functions, memory.transfer
        self._last = memory.tensors["ancestors"].shape[1] - 1
        like = memory.tensors["ancestors"]
        with torch.inference_mode(mode=False):
            width = -(-count // _ALIGNED) * _ALIGNED
            self._packed = like.new_zeros(len(FIELDS), width)
            self.state = {name: self._packed[n, :count] for n, name in enumerate(FIELDS)}
            self.ring, self._turn = like.new_zeros(RING, count), like.new_zeros(1)
            self.logprob = like.new_zeros(count, dtype=torch.float32)
            self._asked = like.new_zeros(len(RULED), width)
        advanced = {"ring": self.ring, "turn": self._turn, "logprob": self.logprob}
        self._inputs = FixedInputs({**memory.tensors, **self.state, **advanced})
        self.idle(range(count), range(count))
        self.step()  # recorded, perhaps by several calls, while there is nothing to disturb
        self._turn.zero_()
        self.turn = 0

    def idle(self, rows: Sequence[int], slots: Sequence[int]) -> None:
        """Make rows idle, with slots that no others have."""
        self.set(rows, slots=slots, finished=[1] * len(rows), position=[self._last] * len(rows))

    def set(self, rows: Sequence[int], **values: Sequence[int]) -> None:
        """Set all integers of some rows, those that are not given to 0; sums begin again."""
        if not rows:
            return
        columns = np.zeros((len(FIELDS) + 1, len(rows)), np.int32)
        columns[-1] = rows
        for name, given in values.items():
            columns[FIELDS.index(name)] = given
        uploaded = self._transfer.upload(columns)
        places = uploaded[-1].long()
        self._packed.index_copy_(1, places, uploaded[:-1])
        self.logprob.index_fill_(0, places, 0)

    def take(self, rows: Sequence[int], other: "Rows", theirs: Sequence[int]) -> None:
        """Continue rows of another state in these."""
        if not rows:
            return
        places, sources = self._transfer.upload(np.array([rows, theirs], np.int64))
        self._packed.index_copy_(1, places, other._packed.index_select(1, sources))
        self.logprob.index_copy_(0, places, other.logprob.index_select(0, sources))

    def step(self) -> dict[str, Tensor]:
        """Decode a token of each row."""
        self.turn = (self.turn + 1) % RING
        return self._functions[f"step_{self.count}"](self._inputs)

    def best(self, logits: Tensor, asked: Tensor) -> dict[str, Tensor]:
        """Return the most likely tokens of each row.

        Args:
            logits: What the last step returned.
            asked: What the rules look at, `RULED` of some rows, int32 [names, rows].
        """
        self._asked[:, : asked.shape[1]] = asked
        rules = {name: self._inputs[name] for name in ("bias", "bounds")}
        ruled = {name: self._asked[place, : self.count] for place, name in enumerate(RULED)}
        return self._functions[f"best_{self.count}"]({"logits": logits, **rules, **ruled})
