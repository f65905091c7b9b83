"""onnx-int8: dynamic int8 ONNX graphs for onnxruntime, optimum and transformers.js.

Graphs are traced without weights, from a model whose linear modules are int8 already, so there is
no float graph to quantize afterwards; weights are then written once each, as external data, while
they are read. Only products with a constant weight are int8: never attention's, never convolutions.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
import onnxruntime
import torch
from onnxscript import opset20 as op
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from exporter.artifact import Manifest, Needs
from exporter.errors import BuildError
from exporter.families import Family
from exporter.graphs import Graph, parameter_names
from exporter.job import Job
from exporter.machine import describe
from exporter.onnx_graph import condition_cross_attention, name_axes, write
from exporter.quantize import (
    Int8,
    Plan,
    Weights,
    absent,
    plan_linears,
    replace_module,
)
from exporter.storage import FLOATS

_log = logging.getLogger(__name__)
_OPSET = 20
# optimum's avx2 preset has unsigned weights: u8 x u8 does not saturate where VNNI is missing.
_UNSIGNED_PRESETS = ("avx2",)
_UNSIGNED_ZERO = 128


class Options(BaseModel):
    """`preset` is one of optimum's `AutoQuantizationConfig`; `exclude` names what stays float."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["avx512_vnni", "avx512", "avx2", "arm64"] = "avx512_vnni"
    per_channel: bool = True
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    include_lm_head: bool = True


@torch.library.custom_op("exporter::int8_matmul", mutates_args=())
def int8_matmul(states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """What the graph computes: states [..., in] as u8, one scale a tensor, times int8 [in, out]."""
    low, high = states.amin().clamp_max(0.0), states.amax().clamp_min(0.0)
    step = (high - low) / 255
    zero = (-low / step).round().clamp(0, 255)
    codes = (states / step).round().add(zero).clamp(0, 255) - zero
    numbers = weight.float() - (_UNSIGNED_ZERO if weight.dtype == torch.uint8 else 0)
    return (codes @ numbers) * (step * scale)


@int8_matmul.register_fake
def _(states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[1]))


class _Int8MatMul(nn.Module):
    """A linear module with an int8 weight [in, out], or the same plus 128 as uint8."""

    def __init__(self, linear: nn.Linear, scheme: Int8, dtype: torch.dtype) -> None:
        super().__init__()
        scales = linear.out_features if scheme.per_channel else 1
        self.weight = absent((linear.in_features, linear.out_features), dtype)
        self.scale = absent((scales,), torch.float32)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = int8_matmul(states, self.weight, self.scale)
        return product if self.bias is None else product + self.bias


class _FloatMatMul(nn.Module):
    """A linear module kept in float, its weight [in, out] as ONNX multiplies it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = absent((linear.in_features, linear.out_features), torch.float32)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product = states @ self.weight
        return product if self.bias is None else product + self.bias


class _Embedding(nn.Embedding):
    """An embedding in the type that the checkpoint stores, widened after the look-up."""

    def __init__(self, embedding: nn.Embedding, dtype: torch.dtype) -> None:
        size = (embedding.num_embeddings, embedding.embedding_dim)
        super().__init__(*size, _weight=absent(size, dtype))

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).float()


def check(options: Options, model: nn.Module, family: Family) -> None:
    """Refuse patterns that match no linear module; warn where this CPU would lose precision."""
    _plan(options, model, family)
    signed = options.preset not in _UNSIGNED_PRESETS and not options.reduce_range
    if signed and describe().isa.startswith("x86-64") and not describe().vnni:
        _log.warning(
            "this CPU has no VNNI, so 8-bit products may saturate here and words may be lost: "
            "to run on it, build with `reduce_range: true` or `preset: avx2`"
        )


def build(job: Job[Options]) -> Needs:
    """Write one ONNX file with external data per graph, and `ort_config.json`."""
    options = job.options
    model = job.family.skeleton(job.checkpoint.config)
    plan = _plan(options, model, job.family)
    weights = Weights(job.checkpoint, plan, job.family.TIED)
    linears = _prepare(model, plan, job)

    def read(name: str) -> Tensor:
        tensor = weights.read(name)
        if name not in linears:
            return tensor
        if tensor.dtype == torch.int8 and options.preset in _UNSIGNED_PRESETS:
            tensor = (tensor.short() + _UNSIGNED_ZERO).to(torch.uint8)
        return tensor.t().contiguous()

    for graph in job.family.graphs(model, cache="dynamic"):
        job.progress(f"tracing {graph.name}", None)
        traced = _trace(graph)
        job.progress(f"writing {graph.name}", 0.0)
        names = parameter_names(graph, model)
        write(traced, job.folder / f"{graph.name}.onnx", names, read, job.progress)
    _write_ort_config(job.folder, options)
    return Needs(packages=("onnxruntime",))


def load(folder: Path, manifest: Manifest, family: Family, threads: int) -> Any:
    """Open a session per graph and join them into a model that generates."""
    functions = {path.stem: _Session(path, threads) for path in sorted(folder.glob("*.onnx"))}
    return family.assemble(folder, functions)


class _Session:
    """A graph in onnxruntime; tensors go in and out without a copy."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # `generate` runs torch between the calls: threads that wait by spinning take its cores
        # (the demo on two cores: 87 ms a clip with spinning, 37 without).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        names = self._outputs if wanted is None else list(wanted)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        values = self._session.run(names, arrays)
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def _plan(options: Options, model: nn.Module, family: Family) -> Plan:
    scheme = Int8(per_channel=options.per_channel, bits=7 if options.reduce_range else 8)
    kept = (*options.exclude, *(() if options.include_lm_head else (family.HEAD,)))
    return plan_linears(model, exclude=kept, scheme=scheme)


def _prepare(model: nn.Module, plan: Plan, job: Job[Options]) -> set[str]:
    """Swap in the modules that ONNX wants; name the weights that are stored [in, out]."""
    int8 = torch.uint8 if job.options.preset in _UNSIGNED_PRESETS else torch.int8
    transposed = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            planned = plan.modules.get(name)
            new = _Int8MatMul(module, planned, int8) if planned else _FloatMatMul(module)
            replace_module(model, name, new)
            transposed.add(f"{name}.weight")
        elif type(module) is nn.Embedding:
            stored = FLOATS[job.checkpoint.tensors[f"{name}.weight"].dtype]
            replace_module(model, name, _Embedding(module, stored))
    return transposed


def _trace(graph: Graph) -> ir.Model:
    """Trace a graph to ONNX, weights still absent."""
    axes = [graph.dynamic.get(name, {}) for name in graph.inputs]
    dynamic = tuple(dict.fromkeys(named, torch.export.Dim.DYNAMIC) for named in axes)
    program = torch.export.export(
        graph.module,
        tuple(graph.inputs.values()),
        dynamic_shapes={"inputs": dynamic},
        strict=False,
    )
    operators = torch.ops.exporter
    program = program.run_decompositions(
        {operators.cross_attention.default: _cross_attention_placeholder}
    )
    exported = torch.onnx.export(
        program,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=_OPSET,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        custom_translation_table={operators.int8_matmul.default: _int8_matmul_nodes},
    )
    if exported is None:
        msg = f"torch.onnx.export gave nothing for {graph.name}"
        raise BuildError(msg)
    name_axes(exported.model, graph)
    condition_cross_attention(exported.model)
    return exported.model


def _int8_matmul_nodes(states: Any, weight: Any, scale: Any) -> Any:
    """The nodes that onnxruntime fuses into one `DynamicQuantizeMatMul`."""
    codes, step, zero = op.DynamicQuantizeLinear(states)
    operands = [codes, weight, zero]
    if weight.dtype == ir.DataType.UINT8:
        operands.append(op.Cast(op.Constant(value_int=_UNSIGNED_ZERO), to=int(ir.DataType.UINT8)))
    product = op.Cast(op.MatMulInteger(*operands), to=int(ir.DataType.FLOAT))
    return op.Mul(product, op.Mul(step, scale))


def _cross_attention_placeholder(*values: Tensor) -> tuple[Tensor, ...]:
    """A node of our own, made an `If` once the whole graph is known."""
    query, _, _, key, value, _ = values
    outputs = torch.onnx.ops.symbolic_multi_out(
        "exporter::CrossAttention",
        values,
        dtypes=(query.dtype, key.dtype, value.dtype),
        shapes=(query.shape, key.shape, value.shape),
        version=1,
    )
    return tuple(output.to(query.device) for output in outputs)


def _write_ort_config(folder: Path, options: Options) -> None:
    """Record the quantization in optimum's terms, where its tools look for it."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTConfig

    chosen: dict[str, Any] = {"is_static": False, "per_channel": options.per_channel}
    if options.preset in ("avx512", "avx2"):
        chosen["reduce_range"] = options.reduce_range
    preset = getattr(AutoQuantizationConfig, options.preset)(**chosen)
    preset.reduce_range = options.reduce_range
    preset.operators_to_quantize = ["MatMul", "Gemm"]
    preset.nodes_to_exclude = list(options.exclude)
    ORTConfig(opset=_OPSET, quantization=preset).save_pretrained(folder)
