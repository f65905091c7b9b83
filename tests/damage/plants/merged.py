"""Damage in the merged decoder alone, which optimum and transformers.js load and ours do not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.damage.onnx_graphs import Edited, edited
from tests.damage.planting import Registry
from tests.damage.plants.graphs import on

PLANTS = Registry()
_MERGED, _PLACES = "decoder_model_merged", "decoder.embed_positions.weight"


def _rolled(g: Edited) -> None:
    """The vocabulary rolled by one."""
    true = g.inner("logits")
    first = [g.constant([value], np.int64) for value in (0, -1, 2)]
    last = [g.constant([value], np.int64) for value in (-1, 2**62, 2)]
    g.append("Slice", [true, *first], "planted_most")
    g.append("Slice", [true, *last], "planted_end")
    g.append("Concat", ["planted_end", "planted_most"], "logits", axis=2)


def _swapped_branch(g: Edited) -> None:
    """use_cache_branch is read the wrong way round."""
    for node in g.of("If"):
        for one in node.attribute:
            one.name = "else_branch" if one.name == "then_branch" else "then_branch"


def _past_ignored(g: Edited) -> None:
    """The cross-attention's past is never used: computed again from the encoder's states."""
    for node in g.of("Concat"):
        if node.input[0] == "past_key_values.0.decoder.key":
            node.input[0] = "past_key_values.0.decoder.value"


def _present_shuffled(g: Edited) -> None:
    names = "present.0.decoder.key", "present.1.decoder.key"
    one, other = (g.inner(name) for name in names)
    g.append("Identity", [other], names[0])
    g.append("Identity", [one], names[1])


def _cached_positions(g: Edited) -> None:
    """Positions start at zero in every call: right in the first one only."""
    (node,) = [n for n in g.of("Gather") if n.input[0] == _PLACES]
    start = g.makes(node.input[1])
    assert start.op_type == "Range"
    zero = g.constant(0, np.int64)
    length = g.then(node, "Sub", [start.input[1], start.input[0]])
    one = g.constant(1, np.int64)
    g.feed(node, node.input[1], g.then(node, "Range", [zero, length, one]))


def _mask_off(g: Edited) -> None:
    """Without the causal mask: the prompt's tokens see those after them."""
    (node,) = g.of("Where")
    node.input[0] = g.then(node, "Or", [node.input[0], g.constant([[True]], np.bool_)])


def _mask_small(g: Edited) -> None:
    """The mask adds -1 in place of the most negative number."""
    (node,) = g.of("Where")
    node.input[2] = g.constant(-1.0)


def _softmax_axis(g: Edited) -> None:
    g.set(g.of("Softmax")[0], "axis", 2)


def _encoder_present(g: Edited) -> None:
    """The cross-attention's present of the first layer is that of the second."""
    names = "present.0.encoder.value", "present.1.encoder.value"
    _, other = (g.inner(name) for name in names)
    g.append("Identity", [other], names[0])
    g.append("Identity", [other], names[1])


def _scale(g: Edited) -> None:
    """The attention's scale left out of one layer."""
    node = next(n for n in g.of("Softmax"))
    scores = node.input[0]
    g.feed(node, scores, g.then(node, "Mul", [scores, g.constant(2.0)]))


def _epsilon(g: Edited) -> None:
    for node in g.of("LayerNormalization"):
        g.set(node, "epsilon", 1e-2)


def _tanh(g: Edited) -> None:
    for node in g.of("Gelu"):
        g.set(node, "approximate", "tanh")


def _own_weights(folder: Path) -> None:
    """One of its scales is stored in the graph, and doubled: a graph of another build."""
    with edited(folder, _MERGED) as g:
        (tensor,) = [t for t in g.model.graph.initializer if t.name.endswith("layers.1.fc1.scale")]
        entries = {entry.key: entry.value for entry in tensor.external_data}
        (path,) = folder.rglob(entries["location"])
        raw = path.read_bytes()[int(entries["offset"]) :][: int(entries["length"])]
        values = np.frombuffer(raw, np.float32) * 2
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _renamed_input(g: Edited) -> None:
    """An input that loaders do not know by this name."""
    for value in g.model.graph.input:
        if value.name == "use_cache_branch":
            value.name = "use_cache"
    for node in g.takes("use_cache_branch"):
        g.feed(node, "use_cache_branch", "use_cache")
    _rename_inside(g.model.graph)


def _rename_inside(graph: Any) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                for inner in attribute.g.node:
                    inner.input[:] = [
                        "use_cache" if n == "use_cache_branch" else n for n in inner.input
                    ]
                _rename_inside(attribute.g)


def _wrong_beyond_one_row(g: Edited) -> None:
    true = g.inner("logits")
    g.append("Shape", [true], "planted_shape", start=0, end=1)
    g.append("Greater", ["planted_shape", g.constant([1], np.int64)], "planted_many")
    g.append("Neg", [true], "planted_other")
    g.append("Where", ["planted_many", "planted_other", true], "logits")


add = PLANTS.add
add("merged-rolled", "tiny/onnx-int8", "latent", "merged", on(_MERGED, _rolled))
add("merged-rolled-demo", "demo/onnx-web", "latent", "merged", on(_MERGED, _rolled))
add("merged-branch-swapped", "tiny/onnx-int8", "latent", "merged", on(_MERGED, _swapped_branch))
add("merged-key-from-value", "tiny/onnx-web", "latent", "merged", on(_MERGED, _past_ignored))
add("merged-present-shuffled", "tiny/onnx-int8", "latent", "merged", on(_MERGED, _present_shuffled))
add(
    "merged-positions-in-the-cache",
    "demo/onnx-int8",
    "latent",
    "merged",
    on(_MERGED, _cached_positions),
)
add("merged-mask-off", "tiny/onnx-int8", "latent", "merged", on(_MERGED, _mask_off))
add("merged-mask-small", "tiny/onnx-int8", "latent", "merged", on(_MERGED, _mask_small))
add("merged-softmax-axis", "tiny/onnx-web", "latent", "merged", on(_MERGED, _softmax_axis))
add("merged-encoder-present", "tiny/onnx-web", "latent", "merged", on(_MERGED, _encoder_present))
add("merged-attention-scale", "tiny/onnx-int8", "latent", "merged", on(_MERGED, _scale))
add("merged-epsilon", "tiny/onnx-web", "latent", "merged", on(_MERGED, _epsilon))
add("merged-gelu-tanh", "tiny/onnx-int8", "latent", "merged", on(_MERGED, _tanh))
add("merged-scale-doubled", "tiny/onnx-int8", "latent", "merged", _own_weights)
add("merged-input-renamed", "tiny/onnx-web", "latent", "merged", on(_MERGED, _renamed_input))
add(
    "merged-wrong-for-batches",
    "tiny/onnx-int8",
    "latent",
    "merged",
    on(_MERGED, _wrong_beyond_one_row),
)
