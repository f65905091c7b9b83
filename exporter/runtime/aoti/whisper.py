"""Whisper's compiled graphs: `encoder` for a window, `decoder` for one or several tokens.

The decoder writes caches of fixed length in place, and they are never copied. A beam search
permutes a small table instead: for each row and position, it has the row whose cache holds that
position's key and value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.runtime.aoti.package import Array, Bound, Package
from exporter.runtime.aoti.spec import TensorSpec
from exporter.runtime.aoti.weights import numpy_type
from exporter.runtime.whisper.engine import (
    Attention,
    Features,
    Heads,
    Scores,
    Tokens,
    query_name,
    require_queries,
)

ENCODER, DECODER = GRAPHS = ("encoder", "decoder")

_CACHE, _CROSS, _ANCESTORS = "cache.", "cross_cache", "ancestors"
_LOGITS = "logits"
_SCALE_BYTES = 4  # of a key in the audio's cache
_SPARE = 2  # sets of caches that are kept for reuse: of a prompt, and of its hypotheses


@dataclass(frozen=True)
class _Call:
    """A call of the decoder for a number of tokens."""

    bound: Bound
    ids: Array
    position: Array
    encoded: Array


@dataclass(eq=False)
class _Caches:
    """Caches of a number of rows with their table, and the call of single tokens on them."""

    rows: int
    arrays: dict[str, Array]
    call: _Call | None = None

    @property
    def ancestors(self) -> Array:
        """The table [rows, positions]; future positions refer to the row itself."""
        return self.arrays[_ANCESTORS]


class Engine:
    """The open graphs of an artifact: an `exporter.runtime.whisper.engine.Engine`.

    Attributes:
        functions: The graphs by name. They are looked up at every call, so that measurements can
            replace them.
    """

    def __init__(self, graphs: Mapping[str, Package]) -> None:
        """Take up open graphs, `GRAPHS` by name."""
        self.functions: dict[str, Any] = dict(graphs)
        self._decoder = graphs[DECODER]
        self._inputs = {
            name: spec
            for name, spec in self._decoder.spec.inputs.items()
            if name.startswith(_CACHE) or name == _ANCESTORS
        }
        self._spare: list[_Caches] = []

    def encode(self, features: Features) -> Array:
        """Run the encoder, window by window; return the decoder's cross-attention cache.

        Each window uses all cores, and its rounding does not depend on the others.
        """
        windows = np.ascontiguousarray(features, np.float32)
        run = self.functions[ENCODER]
        encoded = [run({"input_features": windows[n : n + 1]})[_CROSS] for n in range(len(windows))]
        return encoded[0] if len(encoded) == 1 else np.concatenate(encoded)

    def select(self, encoded: Array, windows: Sequence[int]) -> Array:
        """Return some of the windows."""
        return encoded[[*windows]]

    def start(self, encoded: Array) -> Hypotheses:
        """Return the windows before their first token; the same windows may start again."""
        return Hypotheses(self, encoded)

    def attend(self, encoded: Array, window: int, ids: Tokens, heads: Heads) -> Attention:
        """Decode ids [tokens] of one window at once; return the queries and keys of heads."""
        layers = {layer for layer, _ in heads}
        require_queries(layers, self._decoder.spec.outputs)
        one, caches = encoded[window : window + 1], self.taken(1)
        call = self._bound((1, len(ids)), one, caches, layers)
        call.ids[:] = ids
        found = self.functions[DECODER](call.bound)
        self.give_back(caches)
        keys = [_keys(one, layer, head) for layer, head in heads]
        dim = len(keys[0])
        queries = [
            found[query_name(layer)][0, :, dim * head : dim * (head + 1)] for layer, head in heads
        ]
        return Attention(found[_LOGITS][0], np.stack(queries), np.stack(keys))

    def taken(self, rows: int) -> _Caches:
        """Return caches of so many rows: given back ones, with their old contents, or zeros.

        Values beyond a row's length are masked, so they only have to be finite.
        """
        fitting = [index for index, spare in enumerate(self._spare) if spare.rows == rows]
        if fitting:
            caches = self._spare.pop(fitting[0])
        else:
            caches = _Caches(
                rows, {name: _zeros(each, rows) for name, each in self._inputs.items()}
            )
        caches.ancestors[:] = np.arange(rows)[:, None]
        return caches

    def give_back(self, caches: _Caches) -> None:
        """Keep caches for reuse, the latest ones."""
        caches.call = None  # which holds the windows
        self._spare.append(caches)
        del self._spare[:-_SPARE]

    def run(self, ids: Tokens, encoded: Array, caches: _Caches, length: int) -> Scores:
        """Decode ids [rows, tokens] at positions `length` and on; return logits as the graph."""
        call = caches.call
        if ids.shape[1] != 1 or call is None or call.encoded is not encoded:
            call = self._bound(ids.shape, encoded, caches)
            caches.call = call if ids.shape[1] == 1 else caches.call
        call.ids[:] = ids
        call.position[0] = length
        logits: Scores = self.functions[DECODER](call.bound)[_LOGITS]
        return logits

    def _bound(
        self,
        shape: tuple[int, ...],
        encoded: Array,
        caches: _Caches,
        layers: Collection[int] = (),
    ) -> _Call:
        """Bind a call for ids of a shape, and for the queries of some layers."""
        wanted = (_LOGITS, *map(query_name, layers))
        ids, position = np.zeros(shape, np.int64), np.zeros(1, np.int64)
        arrays = {"input_ids": ids, "position": position, _CROSS: encoded, **caches.arrays}
        return _Call(self._decoder.bind(arrays, wanted), ids, position, encoded)


class Hypotheses:
    """Windows being decoded: an `exporter.runtime.whisper.engine.Hypotheses`."""

    def __init__(self, engine: Engine, encoded: Array) -> None:
        self.windows = len(encoded)
        self._engine = engine
        self._encoded = encoded
        self._caches = engine.taken(self.windows)
        self._length = 0

    def step(self, ids: Tokens) -> Scores:
        """Decode ids [rows, tokens]."""
        logits = self._engine.run(ids, self._encoded, self._caches, self._length)
        self._length += ids.shape[1]
        return logits

    def expand_beams(self, beams: int) -> None:
        """Repeat each window's hypothesis; copy only the positions that are written, once."""
        before, after = self._caches, self._engine.taken(self.windows * beams)
        for name, array in after.arrays.items():
            if name != _ANCESTORS:
                array[: self.windows, :, : self._length] = before.arrays[name][:, :, : self._length]
        first = np.arange(self.windows).repeat(beams)
        after.ancestors[:, : self._length] = before.ancestors[first, : self._length]
        self._engine.give_back(before)
        self._caches = after

    def reorder(self, rows: Tokens) -> None:
        """Permute the table of the positions so far."""
        ancestors = self._caches.ancestors
        ancestors[:, : self._length] = ancestors[rows, : self._length]

    def release(self) -> None:
        """Give the rows' caches back; the windows stay the caller's."""
        self._engine.give_back(self._caches)


def _keys(encoded: Array, layer: int, head: int) -> Array:
    """Return a head's keys [head_dim, source] of the first window, in float32.

    They are stored as int8 codes, with the scale of each row in its last four bytes.
    """
    packed = encoded[0, 2 * layer, head]
    codes, scale = packed[:, :-_SCALE_BYTES].view(np.int8), packed[:, -_SCALE_BYTES:]
    keys: Array = codes * np.ascontiguousarray(scale).view(np.float32)
    return keys.T


def _zeros(spec: TensorSpec, rows: int) -> Array:
    """Return an array for an input, whose axis without a fixed size has one entry a row."""
    shape = [rows if isinstance(size, str) else size for size in spec.shape]
    return np.zeros(shape, numpy_type(spec.dtype))
