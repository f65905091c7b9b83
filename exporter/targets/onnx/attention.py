"""Attention operators as onnxruntime's own nodes in a traced ONNX graph."""

from typing import Any

import onnx_ir as ir
from onnx.defs import OpSchema
from onnxscript import opset20 as op
from onnxscript.values import Op, Opset

MICROSOFT = "com.microsoft"
_ANY = [f"tensor({name})" for name in ("float", "bool", "int8", "int32")]


def operator(
    domain: str,
    name: str,
    inputs: int,
    outputs: int,
    *attributes: OpSchema.Attribute,
    required: int | None = None,
) -> Op:
    """Return an operator without a schema in onnx, with the minimum that its nodes need.

    Inputs after the first `required` are optional.
    """
    parameter, option = OpSchema.FormalParameter, OpSchema.FormalParameterOption
    needed = inputs if required is None else required
    types = [f"T{index}" for index in range(max(inputs, outputs))]
    schema = OpSchema(
        name,
        domain,
        1,
        inputs=[
            parameter(
                f"input{index}",
                types[index],
                param_option=option.Single if index < needed else option.Optional,
            )
            for index in range(inputs)
        ],
        outputs=[parameter(f"output{index}", types[index]) for index in range(outputs)],
        type_constraints=[(kind, _ANY, "") for kind in types],
        attributes=attributes,
    )
    return Op(Opset(domain, 1), name, schema)


def _named(kind: OpSchema.AttrType, *names: str) -> list[OpSchema.Attribute]:
    return [OpSchema.Attribute(name, kind) for name in names]


_MULTI_HEAD = operator(
    MICROSOFT,
    "MultiHeadAttention",
    3,
    1,
    *_named(OpSchema.AttrType.INT, "num_heads"),
    *_named(OpSchema.AttrType.FLOAT, "scale"),
)
_GROUP_QUERY = operator(
    MICROSOFT,
    "GroupQueryAttention",
    14,
    3,
    *_named(OpSchema.AttrType.INT, "num_heads", "kv_num_heads", "causal", "kv_cache_bit_width"),
    *_named(OpSchema.AttrType.FLOAT, "scale"),
    *_named(OpSchema.AttrType.STRING, "k_quant_type", "v_quant_type"),
    required=7,
)


def attention(query: Any, key: Any, value: Any, heads: int) -> Any:
    """Return the node of attention with queries that are scaled already.

    With a scale of 1, MLAS computes the product of one query with the keys by its routine for one
    row.
    """
    return _MULTI_HEAD(query, key, value, num_heads=heads, scale=1.0)


def quantized_channels(states: Any) -> Any:
    """Quantize channels by square and maximum: `Abs` and `ReduceMin` of onnxruntime are slower.

    Its maximum over the leading axes uses all cores, over the second one alone a core for each row.
    """
    axes = op.Constant(value_ints=[0, 1] if states.shape[0] == 1 else [1])
    peaks = op.ReduceMax(op.Mul(states, states), axes, keepdims=1)
    scale = op.Max(op.Mul(op.Sqrt(peaks), 1 / 127), op.Constant(value_float=2.0**-126))
    one, zero = op.Constant(value_float=1.0), op.Constant(value=ir.tensor(0, ir.DataType.INT8))
    return op.QuantizeLinear(op.Mul(states, op.Reciprocal(scale)), one, zero), scale


def shared_attention(
    query: Any, key: Any, value: Any, key_cache: Any, value_cache: Any, last: Any
) -> Any:
    """Return the node; past and present share a buffer, so that only new keys are written."""
    first = op.Slice(last, op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    seen = op.Add(first, op.Constant(value=ir.tensor([1], ir.DataType.INT32)))
    return _shared(query, key, value, key_cache, value_cache, last, seen)


def buffer_attention(
    query: Any, key: Any, value: Any, key_cache: Any, value_cache: Any, last: Any
) -> Any:
    """Return the node of `shared_attention`, whose only lengths are those of each row.

    The length of the longest is an input on the host, which a CUDA graph would keep as it was when
    it was captured: here it is that of the buffer, and rows are masked by their own.
    """
    length = op.Constant(value=ir.tensor([int(key_cache.shape[2])], ir.DataType.INT32))
    return _shared(query, key, value, key_cache, value_cache, last, length)


def _shared(
    query: Any, key: Any, value: Any, key_cache: Any, value_cache: Any, last: Any, seen: Any
) -> Any:
    heads = int(key_cache.shape[1])
    past = (key_cache, value_cache, last, seen)
    return _GROUP_QUERY(query, key, value, *past, num_heads=heads, kv_num_heads=heads, scale=1.0)


def windows_attention(query: Any, key: Any, value: Any) -> Any:
    """Return the node whose batch are the windows, with their rows as queries."""
    width = int(key.shape[1]) * int(key.shape[3])
    windows = op.Shape(key, start=0, end=1)
    grouped = op.Concat(windows, op.Constant(value_ints=[-1, width]), axis=0)
    attended = attention(op.Reshape(query, grouped), key, value, int(key.shape[1]))
    return op.Reshape(attended, op.Shape(query))


def shared_cross_attention(query: Any, key: Any, value: Any, scales: Any, last: Any) -> Any:
    """Return the node without new keys; its operator requires a present nevertheless.

    Shapes are computed from `last`, which all layers share, so onnxruntime computes them once.
    The operator's scales belong to all its rows, so those of a window multiply its queries, and
    what they attend to.
    """
    _, heads, source, dim = (int(size) if axis else 0 for axis, size in enumerate(key.shape))
    windows, rows = op.Shape(last), op.Shape(query)
    queries, nothing = (
        op.Concat(windows, op.Constant(value_ints=[length, heads * dim]), axis=0)
        for length in (-1, 0)
    )
    none = op.ConstantOfShape(nothing)
    total = op.Constant(value=ir.tensor([source], ir.DataType.INT32))
    query = op.Reshape(query, queries)
    arguments = [none, none, key, value, last, total]
    settings: dict[str, Any] = {"num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
    if scales:
        query = op.Mul(query, scales[0])
        one = op.Constant(value_floats=[1.0])
        arguments += [*[None] * 5, one, one]
        kinds = dict.fromkeys(("k_quant_type", "v_quant_type"), "PER_TENSOR")
        settings |= {"kv_cache_bit_width": 8, **kinds}
    attended, *same = _GROUP_QUERY(query, *arguments, causal=0, **settings)
    if scales:
        attended = op.Mul(attended, scales[1])
    return op.Reshape(attended, rows), *same
