"""Compile the CPU's graphs whole, and one layer for all, and compare builds and tokens.

    python benchmarks/layered_cpu.py CHECKPOINT whole|layered [--no-encoder]

Prints JSON: the seconds to compile a Whisper's encoder and decoder, int8 with this project's
kernels, and the milliseconds of a decoder's step of one row. Layered, a library is opened once and
has an instance for each layer, with the layer's weights. Weights are random.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.families.attention import attention, keep_window, step_attention, window_attention
from exporter.families.graph import Graph
from exporter.families.whisper.graphs.layers import convolve, embed, encode_layer, feed_forward
from exporter.formats import pt2
from exporter.quantization.plan import plan_of, shared_tables
from exporter.quantization.resolve import default_quantization
from exporter.runtime.aoti.library import Library, arguments
from exporter.runtime.aoti.library import Tensor as InMemory
from exporter.targets.aoti.compiler import compile_graph
from exporter.targets.aoti.graph_builder import prepared, setup_of
from exporter.targets.aoti.options import Options
from exporter.targets.aoti.package import read_spec

POSITION, WARM_UPS, TIMED = 40, 3, 15


class Part(nn.Module):
    """A part of a graph: modules of a model, and what is computed with them."""

    def __init__(self, compute: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)
        self._compute = compute

    def forward(self, *inputs: Tensor) -> Any:
        return self._compute(self.parts, *inputs)


def encoder_parts(whole: Graph, model: Any) -> list[Graph]:
    """The convolutions, a layer, the keys and values for a decoder's layer, and the last norm."""
    encoder, decoder = model.model.encoder, model.model.decoder
    features = whole.inputs["input_features"]
    source, width = encoder.max_source_positions, model.config.d_model
    hidden = torch.empty(2, source, width, device="meta")
    shape = whole.outputs["cross_cache"]
    cross = torch.empty(2, 2, *map(int, shape[2:]), dtype=torch.uint8, device="meta")
    heads = model.config.encoder_attention_heads

    def attend(layer: Any, states: Tensor) -> Tensor:
        query = layer.q_proj(states) * layer.scaling
        attended = attention(query, layer.k_proj(states), layer.v_proj(states), heads)
        projected: Tensor = layer.out_proj(attended)
        return projected

    def keys_and_values(parts: Any, states: Tensor, cache: Tensor) -> tuple[()]:
        for index, projection in enumerate((parts.key, parts.value)):
            keep_window(projection(states).float().contiguous(), cache, index)
        return ()

    layer, heard = encoder.layers[0], decoder.layers[0].encoder_attn
    dtype = encoder.layer_norm.weight.dtype
    first = Part(lambda p, x: (convolve(p.encoder, x, dtype),), encoder=encoder)
    one = Part(lambda p, x: (encode_layer(p.layer, x, attend),), layer=layer)
    last = Part(lambda p, x: (p.norm(x),), norm=encoder.layer_norm)
    kept = Part(keys_and_values, key=heard.k_proj, value=heard.v_proj)
    axes, out = {"hidden": {0: "batch"}}, {"hidden": ("batch", source, width)}
    return [
        Graph("first", first, {"features": features}, {"features": {0: "batch"}}, out),
        Graph("layer", one, {"hidden": hidden}, axes, out),
        Graph("last", last, {"hidden": hidden}, axes, out),
        Graph(
            "kept",
            kept,
            {"hidden": hidden, "cross": cross},
            {**axes, "cross": {0: "batch"}},
            {},
            ("cross",),
        ),
    ]


def decoder_parts(whole: Graph, model: Any) -> list[Graph]:
    """The embeddings, a layer, and the head."""
    decoder, width = model.model.decoder, model.config.d_model
    hidden = torch.empty(4, 3, width, device="meta")
    cross = whole.inputs["cross_cache"][:, :2]
    given = {name: whole.inputs[name] for name in ("position", "ancestors")}
    caches = {name: whole.inputs[name] for name in ("cache.0.key", "cache.0.value")}

    def compute(parts: Any, hidden: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        cross, position, ancestors, *cache = others
        own, states = parts.layer.self_attn, parts.layer.self_attn_layer_norm(hidden)
        query = (own.q_proj(states) * own.scaling).float()
        key, value = own.k_proj(states).float(), own.v_proj(states).float()
        attended = step_attention(query, key, value, *cache, ancestors, position)
        hidden = hidden + own.out_proj(attended.to(hidden.dtype))
        heard, states = parts.layer.encoder_attn, parts.layer.encoder_attn_layer_norm(hidden)
        query = (heard.q_proj(states) * heard.scaling).float()
        attended = window_attention(query, cross, 0)
        hidden = hidden + heard.out_proj(attended.to(hidden.dtype))
        return feed_forward(parts.layer, hidden), query

    def embedded(parts: Any, ids: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        places = position + torch.arange(ids.shape[1], device=ids.device)
        return (embed(parts.decoder, ids, places),)

    both = {0: "rows", 1: "tokens"}
    shape = ("rows", "tokens", width)
    head, norm = model.proj_out, decoder.layer_norm
    first = Part(embedded, decoder=decoder, head=head)  # whose weights are the tokens' too
    layer = Part(compute, layer=decoder.layers[0])
    last = Part(lambda p, x: (p.head(p.norm(x)).float(),), norm=norm, head=head)
    ids = {"input_ids": whole.inputs["input_ids"], "position": given["position"]}
    rows = {name: {0: "rows"} for name in ("ancestors", *caches)}
    return [
        Graph("first", first, ids, {"input_ids": both}, {"hidden": shape}),
        Graph(
            "layer",
            layer,
            {"hidden": hidden, "cross": cross, **given, **caches},
            {**rows, "hidden": both, "cross": {0: "batch"}},
            {"hidden": shape, "query": shape},
            tuple(caches),
        ),
        Graph("last", last, {"hidden": hidden}, {"hidden": both}, {"logits": shape}),
    ]


class Built:
    """A compiled graph's code, of which any number of instances may be opened."""

    def __init__(self, graph: Graph, folder: Path, options: Options) -> None:
        for name, tensor in [*graph.module.named_parameters()]:
            owner, _, leaf = name.rpartition(".")
            room = nn.Parameter(torch.empty(tensor.shape, dtype=tensor.dtype), requires_grad=False)
            setattr(graph.module.get_submodule(owner), leaf, room)
        names = {name: name for name, _ in graph.module.named_parameters()}
        path = folder / f"{graph.name}.pt2"
        compile_graph(
            graph,
            graph.module,
            names,
            path,
            march=options.march,
            extensions=options.extensions,
            threads=None,
            fresh=True,
        )
        self.spec = read_spec(path)
        assert not self.spec.needs_torch
        with zipfile.ZipFile(path) as package:
            self._code = package.read(f"{path.stem}/{pt2.LIBRARY}")

    def instance(self) -> tuple[Library, list[Any]]:
        """Open the code once more, with new random weights, which have to be kept."""
        library = Library(self._code, "graph")
        constants = {c.name: c for c in self.spec.constants.values()}
        held, given = [], []
        for name in library.weight_names():
            constant = constants[str(name)]
            dtype = getattr(np, constant.dtype)
            values = np.random.default_rng(0).integers(-9, 9, constant.shape).astype(dtype)
            if values.dtype.kind == "f":
                values *= 0.01
            held.append(values)
            given.append(InMemory(values.ctypes.data, constant.dtype, values.shape))
        library.set_weights(given)
        return library, held

    def call(self) -> Callable[[], Any]:
        """Return a call of one row and one token."""
        library, held = self.instance()
        sizes = {"rows": 1, "tokens": 1, "batch": 1}
        arrays = {}
        for name, spec in self.spec.inputs.items():
            shape = [sizes[s] if isinstance(s, str) else s for s in spec.shape]
            arrays[name] = np.zeros(shape, getattr(np, spec.dtype))
        arrays.get("position", np.zeros(1))[:] = POSITION
        given = arguments([InMemory(a.ctypes.data, str(a.dtype), a.shape) for a in arrays.values()])
        count, threads = len(self.spec.outputs), torch.get_num_threads()

        def run(_kept: object = (held, arrays)) -> Any:
            return library.run(given, count, threads)

        return run


def timed(calls: list[Callable[[], Any]]) -> float:
    """The median milliseconds of all calls after one another."""
    times = []
    for _ in range(WARM_UPS + TIMED):
        start = time.perf_counter()
        for call in calls:
            call()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times[WARM_UPS:]), 3)


def main(checkpoint: str, how: str, *flags: str) -> Mapping[str, Any]:
    """Compile and time one of the two."""
    opened, family = open_checkpoint(checkpoint), FAMILIES["whisper"]
    model = family.skeleton(opened.config)
    shared = shared_tables(family.TIED, opened.tensors)
    plan = plan_of(default_quantization(model, family.HEAD, shared), model)
    options = Options(onednn=False)
    setup = setup_of(options, plan, model, family)
    found: dict[str, Any] = {"checkpoint": Path(checkpoint).name, "how": how}
    cuts = {"encoder": encoder_parts, "decoder": decoder_parts}
    for name in ["decoder"] if flags else ["encoder", "decoder"]:
        with tempfile.TemporaryDirectory() as place:
            graph, own, _ = prepared(setup, opened, family, name)
            parts = [graph] if how == "whole" else cuts[name](graph, own)
            start = time.perf_counter()
            built = [Built(part, Path(place), options) for part in parts]
            found[f"{name}_s"] = round(time.perf_counter() - start, 1)
            if name == "decoder":
                layers: int = opened.config["decoder_layers"]
                first, *rest = built
                calls = [first.call()]
                if rest:
                    layer, last = rest
                    calls += [layer.call() for _ in range(layers)] + [last.call()]
                found["step_ms"] = timed(calls)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
