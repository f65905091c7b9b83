"""Damage in ONNX graphs, whose weights are as they should be."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from tests.damage.onnx_graphs import Edited, edited, graph_path
from tests.damage.planting import Change, Registry, editing

PLANTS = Registry()


def on(graph: str, edit: Callable[[Edited], object]) -> Change:
    """Return a change of one graph."""

    def change(folder: Path) -> None:
        with edited(folder, graph) as opened:
            edit(opened)

    return change


def _epsilon(value: float, most: int | None = None) -> Callable[[Edited], object]:
    return lambda g: [g.set(node, "epsilon", value) for node in g.of("LayerNormalization")[:most]]


def _tanh(g: Edited) -> None:
    for node in g.of("Gelu"):
        g.set(node, "approximate", "tanh")


def _relu(g: Edited) -> None:
    for node in g.of("Gelu")[-1:]:
        node.op_type = "Relu"
        del node.attribute[:]


def _quick_gelu(g: Edited) -> None:
    """x * sigmoid(1.702 x), as in CLIP."""
    for node in g.of("Gelu"):
        node.op_type, node.domain = "QuickGelu", "com.microsoft"
        g.set(node, "approximate", None)
        g.set(node, "alpha", 1.702)


def _scale(factor: float, kind: str = "GroupQueryAttention") -> Callable[[Edited], object]:
    """A scale of attention that the graph applies twice, or not at all."""
    return lambda g: [g.set(node, "scale", factor) for node in g.of(kind)[:1]]


def _identity_attention_scale(g: Edited) -> None:
    for node in g.of("MultiHeadAttention"):
        g.set(node, "scale", 0.5)


def _deaf(frames: int) -> Callable[[Edited], object]:
    """Frames beyond the first ones are zeros."""

    def edit(g: Edited) -> None:
        (output,) = [o.name for o in g.model.graph.output]
        total = g.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        mask = np.zeros((1, total, 1), np.float32)
        mask[:, :frames] = 1
        whole = g.inner(output)
        g.append("Mul", [whole, g.constant(mask)], output)

    return edit


def _cross_frames(frames: int) -> Callable[[Edited], object]:
    """Cross-attention sees only the first frames."""

    def edit(g: Edited) -> None:
        for node in g.of("GroupQueryAttention"):
            if "cross_last" in node.input:
                limit = g.constant(frames - 1, np.int32)
                g.feed(node, "cross_last", g.then(node, "Min", ["cross_last", limit]))

    return edit


def _garbage_after(position: int) -> Callable[[Edited], object]:
    """Logits are reversed where a position is late: as of caches that are too short."""

    def edit(g: Edited) -> None:
        true = g.inner("logits")
        late = g.constant(position, np.int32)
        g.append("ReduceMax", ["own_last"], "planted_last", keepdims=0)
        g.append("Greater", ["planted_last", late], "planted_late")
        g.append("Neg", [true], "planted_other")
        g.append("Where", ["planted_late", "planted_other", true], "logits")

    return edit


def _wrong_for_rows(rows: int) -> Callable[[Edited], object]:
    """Logits of the rows are exchanged where there are so many or more."""

    def edit(g: Edited) -> None:
        true = g.inner("logits")
        g.append("Shape", [true], "planted_shape", start=0, end=1)
        g.append("GreaterOrEqual", ["planted_shape", g.constant([rows], np.int64)], "planted_many")
        ends = [g.constant([value], np.int64) for value in (-1, -(2**62), 0, -1)]
        g.append("Slice", [true, *ends], "planted_other")
        g.append("Where", ["planted_many", "planted_other", true], "logits")

    return edit


def _nan_on_silence(g: Edited) -> None:
    """Features divided by their range, which is zero where there is no sound."""
    (first,) = g.takes("input_features")
    name = "input_features"
    high = g.then(first, "ReduceMax", [name], keepdims=1)
    low = g.then(first, "ReduceMin", [name], keepdims=1)
    span = g.then(first, "Sub", [high, low])
    one = g.then(first, "Div", [span, span])
    g.feed(first, name, g.then(first, "Mul", [name, one]))


def _clipped_features(most: float) -> Callable[[Edited], object]:
    """Loud features are clipped, as by a wrong activation range of static quantization."""

    def edit(g: Edited) -> None:
        first = next(node for node in g.takes("input_features"))
        limits = g.constant(-10.0), g.constant(most)
        g.feed(first, "input_features", g.then(first, "Clip", ["input_features", *limits]))

    return edit


def _slow_when_long(g: Edited) -> None:
    """A loop of work for every frame that is not silent: slow only on long clips."""
    first = next(node for node in g.takes("input_features"))
    frames = g.then(
        first, "ReduceMax", ["input_features", g.constant([0, 1], np.int64)], keepdims=0
    )
    quiet = g.then(first, "ReduceMin", [frames], keepdims=0)
    loud = g.then(first, "Greater", [frames, g.then(first, "Add", [quiet, g.constant(0.05)])])
    count = g.then(first, "ReduceSum", [g.then(first, "Cast", [loud], to=7)], keepdims=0)
    size = g.then(first, "Mul", [count, g.constant(6, np.int64)])
    shape = g.then(
        first,
        "Concat",
        [g.then(first, "Reshape", [size, g.constant([1], np.int64)]), g.constant([2500], np.int64)],
        axis=0,
    )
    value = onnx.numpy_helper.from_array(np.ones(1, np.float32))
    wide = g.then(first, "ConstantOfShape", [shape], value=value)
    for _ in range(4):
        wide = g.then(first, "Sin", [wide])
    extra = g.then(first, "ReduceMax", [wide], keepdims=0)
    nothing = g.then(first, "Mul", [extra, g.constant(0.0)])
    g.feed(first, "input_features", g.then(first, "Add", ["input_features", nothing]))


def _gigabyte(g: Edited) -> None:
    """A mask of a gigabyte that is made at every call and read once."""
    first = next(node for node in g.takes("input_features"))
    value = onnx.numpy_helper.from_array(np.ones(1, np.float32))
    # Follows the input's shape, so that it is not made once while the graph is optimized.
    shape = g.then(first, "Shape", ["input_features"], start=0, end=1)
    size = g.then(first, "Mul", [shape, g.constant([1 << 28], np.int64)])
    wide = g.then(first, "ConstantOfShape", [size], value=value)
    least = g.then(first, "ReduceMin", [wide], keepdims=0)
    nothing = g.then(first, "Sub", [least, g.constant(1.0)])
    g.feed(first, "input_features", g.then(first, "Add", ["input_features", nothing]))


def _zero_point(g: Edited) -> None:
    """A constant zero point in place of the computed one, as of symmetric activations."""
    node = g.of("MatMulInteger")[4]
    g.feed(node, node.input[2], g.constant(128, np.uint8))


def _fixed_range(low_high: float) -> Callable[[Edited], object]:
    """One dynamic quantization became static, with a range from calibration that is too small."""

    def edit(g: Edited) -> None:
        node = g.of("DynamicQuantizeLinear")[6]
        limits = g.constant(-low_high), g.constant(low_high)
        g.feed(node, node.input[0], g.then(node, "Clip", [node.input[0], *limits]))

    return edit


def _no_unsigned_zero(g: Edited) -> None:
    """Unsigned weights with a zero point of 0."""
    for node in g.of("MatMulInteger")[3:6:2]:
        assert len(node.input) == 4
        node.input[3] = g.constant(0, np.uint8)


def _shifted(by: int) -> Callable[[Edited], object]:
    """Positions off by some."""

    def edit(g: Edited) -> None:
        (node,) = [n for n in g.of("Gather") if n.input[0] == _PLACES]
        moved = g.then(node, "Add", [node.input[1], g.constant(by, np.int64)])
        g.feed(node, node.input[1], moved)

    return edit


def _stuck_positions(limit: int) -> Callable[[Edited], object]:
    """Positions stop at a limit."""

    def edit(g: Edited) -> None:
        (node,) = [n for n in g.of("Gather") if n.input[0] == _PLACES]
        g.feed(
            node,
            node.input[1],
            g.then(node, "Min", [node.input[1], g.constant(limit, np.int64)]),
        )

    return edit


_PLACES = "decoder.embed_positions.weight"


def _not_causal(g: Edited) -> None:
    """Tokens of the prompt see those after them."""
    for node in g.of("GroupQueryAttention"):
        if "own_last" in node.input:
            g.set(node, "causal", 0)


def _cross_scales(g: Edited) -> None:
    """The int8 cross-attention cache under scales that are too large."""
    for output in g.model.graph.output:
        if output.name.endswith("key_scale"):
            true = g.inner(output.name)
            g.append("Mul", [true, g.constant(1.5)], output.name)


def _cross_swapped(g: Edited) -> None:
    """Key and value of one layer change places."""
    names = [o.name for o in g.model.graph.output]
    for ending in ("", "_scale"):
        one, other = f"cross.1.key{ending}", f"cross.1.value{ending}"
        if one in names:
            first, second = g.inner(one), g.inner(other)
            g.append("Identity", [second], one)
            g.append("Identity", [first], other)


def _queries_swapped(g: Edited) -> None:
    """Words would be timed by another layer's queries; no text shows it."""
    one, other = "cross.0.query", "cross.1.query"
    first, second = g.inner(one), g.inner(other)
    g.append("Identity", [second], one)
    g.append("Identity", [first], other)


def _padded(g: Edited) -> None:
    """The first convolution is padded on one side only."""
    g.of("Pad")[0].input[1] = g.constant([2, 0], np.int64)


def _bigger_step(g: Edited) -> None:
    """The head is computed eight times for every token."""
    true = g.inner("logits")
    node = g.makes(true)
    heavy = g.then(node, "Transpose", [node.input[0]], perm=[0, 2, 1])
    value = g.then(node, "MatMul", [node.input[0], heavy])
    for _ in range(40):
        value = g.then(node, "Mul", [g.then(node, "Sin", [value]), value])
    extra = g.then(node, "ReduceMax", [value], keepdims=0)
    g.append("Add", [true, g.then(node, "Mul", [extra, g.constant(0.0)])], "logits")


def _dithered(g: Edited) -> None:
    """Random numbers in the graph, as of dropout that was left on: no two calls agree."""
    (output,) = [o.name for o in g.model.graph.output]
    whole = g.inner(output)
    g.append("RandomNormalLike", [whole], "planted_noise", scale=0.05)
    g.append("Add", [whole, "planted_noise"], output)


def _backwards(g: Edited) -> None:
    """Features reversed in time, as of an axis that was read backwards."""
    (first,) = g.takes("input_features")
    ends = [g.constant([value], np.int64) for value in (-1, -(2**62), 2, -1)]
    g.feed(first, "input_features", g.then(first, "Slice", ["input_features", *ends]))


def _half(g: Edited) -> None:
    """The encoder's output through bfloat16, though the plan says float32."""
    (output,) = [o.name for o in g.model.graph.output]
    whole = g.inner(output)
    g.append("Cast", [whole], "planted_narrow", to=onnx.TensorProto.BFLOAT16)
    g.append("Cast", ["planted_narrow"], output, to=onnx.TensorProto.FLOAT)


def _smaller_window(g: Edited) -> None:
    """Declares the features shorter than the family's window."""
    dims = g.model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value -= 100


def _one_batch(g: Edited) -> None:
    """The rows are fixed to one, as of a trace with one example."""
    for value in (*g.model.graph.input, *g.model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "rows":
                dim.Clear()
                dim.dim_value = 1


def _offset(by: int) -> Change:
    """External data read from a place beside its own."""

    def change(folder: Path) -> None:
        path = graph_path(folder, "encoder_model")
        model = onnx.load(path, load_external_data=False)
        (tensor,) = [t for t in model.graph.initializer if t.name.endswith("layers.0.fc2.weight")]
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + by)
        path.write_bytes(model.SerializeToString())

    return change


def _missing_data(folder: Path) -> None:
    """The external data is cut in the middle, as by a full disk."""
    path = graph_path(folder, "encoder_model")
    data = path.with_name(f"{path.name}_data")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def _other_opset(g: Edited) -> None:
    for opset in g.model.opset_import:
        if opset.domain == "":
            opset.version = 11


def _no_step(folder: Path) -> None:
    graph_path(folder, "step").unlink()


def _web_config(folder: Path) -> None:
    with editing(folder / "config.json") as config:
        del config["transformers.js_config"]["use_external_data_format"]


def _web_dtype(folder: Path) -> None:
    with editing(folder / "config.json") as config:
        config["transformers.js_config"]["dtype"] = "fp32"


ENC, STEP, CROSS = "encoder_model", "step", "cross_cache"
add = PLANTS.add
add("epsilon-encoder", "tiny/onnx-int8", "subtle", "faithful|encoder", on(ENC, _epsilon(1e-3)))
add("epsilon-step", "demo/onnx-int8", "subtle", "faithful|step", on(STEP, _epsilon(1e-2)))
add("epsilon-12", "tiny/onnx-int8", "latent", "faithful|epsilon", on(ENC, _epsilon(1e-12)))
add("gelu-tanh", "demo/onnx-int8", "subtle", "faithful|encoder", on(ENC, _tanh))
add("gelu-quick", "tiny/onnx-int8", "subtle", "faithful|step", on(STEP, _quick_gelu))
add("gelu-relu", "tiny/onnx-web", "medium", "faithful|encoder", on(ENC, _relu))
add("attention-scale-step", "tiny/onnx-int8", "medium", "faithful|step", on(STEP, _scale(0.7)))
add(
    "attention-scale-encoder",
    "tiny/onnx-int8",
    "medium",
    "faithful|encoder",
    on(ENC, _identity_attention_scale),
)
add("not-causal", "tiny/onnx-int8", "medium", "faithful|step|prompts", on(STEP, _not_causal))
add(
    "deaf-beyond-half",
    "demo/onnx-int8",
    "medium",
    "inputs|window|faithful|encoder",
    on(ENC, _deaf(250)),
)
add(
    "deaf-at-the-end",
    "tiny/onnx-int8",
    "medium",
    "inputs|window|faithful|encoder",
    on(ENC, _deaf(150)),
)
add(
    "cross-attention-cut",
    "demo/onnx-int8",
    "medium",
    "window|inputs|faithful|step",
    on(STEP, _cross_frames(250)),
)
add("garbage-after-30", "tiny/onnx-int8", "latent", "positions", on(STEP, _garbage_after(30)))
add("garbage-after-60", "demo/onnx-int8", "latent", "positions", on(STEP, _garbage_after(60)))
add("nan-on-silence", "tiny/onnx-int8", "latent", "silence|inputs|finite", on(ENC, _nan_on_silence))
add(
    "features-clipped",
    "demo/onnx-int8",
    "subtle",
    "faithful|inputs|encoder",
    on(ENC, _clipped_features(0.9)),
)
add("wrong-for-5-rows", "tiny/onnx-int8", "latent", "batch|rows", on(STEP, _wrong_for_rows(5)))
add("wrong-for-2-rows", "tiny/onnx-web", "latent", "batch|beams|rows", on(STEP, _wrong_for_rows(2)))
add(
    "wrong-for-3-rows", "demo/onnx-int8", "latent", "batch|beams|rows", on(STEP, _wrong_for_rows(3))
)
add("slow-when-long", "demo/onnx-int8", "medium", "length|latency", on(ENC, _slow_when_long))
add("slow-steps", "demo/onnx-int8", "medium", "latency", on(STEP, _bigger_step))
add("gigabyte", "tiny/onnx-int8", "medium", "memory", on(ENC, _gigabyte))
add("zero-point-constant", "tiny/onnx-int8", "medium", "faithful|encoder", on(ENC, _zero_point))
add(
    "range-from-calibration",
    "demo/onnx-int8",
    "subtle",
    "faithful|encoder",
    on(ENC, _fixed_range(1.2)),
)
add(
    "no-unsigned-zero-point",
    "tiny/onnx-avx2",
    "severe",
    "faithful|encoder",
    on(ENC, _no_unsigned_zero),
)
add(
    "positions-off-by-one",
    "tiny/onnx-int8",
    "severe",
    "faithful|positions|step",
    on(STEP, _shifted(1)),
)
add("positions-stop", "tiny/onnx-web", "latent", "positions", on(STEP, _stuck_positions(40)))
add(
    "positions-stop-early",
    "tiny/onnx-int8",
    "severe",
    "positions|faithful|step",
    on(STEP, _stuck_positions(6)),
)
add("cross-scales", "tiny/onnx-int8", "medium", "faithful|cross_cache", on(CROSS, _cross_scales))
add(
    "cross-key-and-value",
    "tiny/onnx-int8",
    "severe",
    "faithful|cross_cache",
    on(CROSS, _cross_swapped),
)
add("queries-swapped", "tiny/onnx-int8", "latent", "faithful|q_proj", on(STEP, _queries_swapped))
add("conv-padding", "tiny/onnx-int8", "subtle", "faithful|encoder", on(ENC, _padded))
add("dropout-left-on", "tiny/onnx-int8", "subtle", "repeat|faithful|encoder", on(ENC, _dithered))
add("frames-reversed", "tiny/onnx-int8", "severe", "faithful|encoder", on(ENC, _backwards))
add("encoder-output-in-bfloat16", "demo/onnx-int8", "latent", "faithful|encoder", on(ENC, _half))
add(
    "window-declared-shorter",
    "tiny/onnx-int8",
    "severe",
    "input_features|encoder",
    on(ENC, _smaller_window),
)
add("rows-fixed-to-one", "tiny/onnx-int8", "latent", "batch|beams|rows|step", on(STEP, _one_batch))
add("external-data-shifted", "tiny/onnx-int8", "severe", "fc2|encoder", _offset(64))
add("external-data-shifted-by-a-byte", "tiny/onnx-int8", "severe", "fc2|encoder", _offset(1))
add("external-data-cut", "tiny/onnx-web", "severe", "encoder", _missing_data)
add("opset-11", "tiny/onnx-int8", "severe", "step", on(STEP, _other_opset))
add("no-step-graph", "tiny/onnx-int8", "severe", "step", _no_step)
add(
    "web-without-external-data-entry",
    "tiny/onnx-web",
    "latent",
    "config.json|use_external_data_format",
    _web_config,
)
add("web-dtype-fp32", "tiny/onnx-web", "latent", "config.json|dtype", _web_dtype)
