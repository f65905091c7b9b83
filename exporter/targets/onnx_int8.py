"""onnx-int8: dynamic int8 ONNX graphs for onnxruntime, optimum and transformers.js.

Graphs are traced without weights, from a model whose linear modules are int8 already, so there is
no float graph to quantize afterwards; weights are then written once each, as external data, while
they are read. Only products with a constant weight are int8: never attention's, never convolutions.
Of a graph whose layers are alike one is traced, and repeated.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
import onnxruntime
import torch
from onnxscript import opset20 as op
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from exporter import onnx_file, onnx_graph
from exporter.artifact import Manifest, Needs, Outcome
from exporter.cache import obtain
from exporter.checkpoint import Checkpoint
from exporter.errors import BuildError, RecipeError
from exporter.families import Family
from exporter.graphs import Graph, parameter_names
from exporter.job import Job
from exporter.machine import describe, installed_versions
from exporter.onnx_graph import placeholder
from exporter.quantize import (
    Int8,
    Plan,
    Weights,
    absent,
    keep_narrow,
    plan_linears,
    replace_module,
)

_log = logging.getLogger(__name__)
_OPSET = 20
# optimum's avx2 preset has unsigned weights: u8 x u8 does not saturate where VNNI is missing.
_UNSIGNED_PRESETS = ("avx2",)
_UNSIGNED_ZERO = 128
# onnxruntime 1.31 knows for how long; one that does not know would spin without end.
_SPINNING = str(int([int(n) for n in onnxruntime.__version__.split(".")[:2]] >= [1, 31]))
# About what a graph's nodes take, for each linear module and each input with what lies around it.
_LINEAR_BYTES, _INPUT_BYTES = 1_420, 1_500
_ORT_CONFIG_BYTES = 700

Precision = Literal["int8", "float32", "float16", "bfloat16"]


class Options(BaseModel):
    """`preset` is one of optimum's `AutoQuantizationConfig`; `exclude` names what stays float.

    `dtype` is how linear weights are stored, for all graphs or by graph (one not named has int8).
    Whatever is stored, graphs take, give and compute float32, so that any mix loads anywhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Precision | dict[str, Precision] = "int8"

    preset: Literal["avx512_vnni", "avx512", "avx2", "arm64"] = "avx512_vnni"
    per_channel: bool = True
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()
    include_lm_head: bool = True

    def precision(self, graph: str) -> Precision:
        """How a graph's linear weights are stored; the encoder is that of `encoder_model`."""
        part = graph.partition("_")[0]
        return self.dtype if isinstance(self.dtype, str) else self.dtype.get(part, "int8")


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

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = absent((linear.in_features, linear.out_features), dtype)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product = states @ self.weight.float()
        return product if self.bias is None else product + self.bias


class _TiedMatMul(nn.Module):
    """A head in float whose weight is the embedding's table, which is stored once."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self._table = (table,)  # not a module of this one: it has its name elsewhere

    def forward(self, states: Tensor) -> Tensor:
        table: Any = self._table[0].weight
        product: Tensor = states @ table.float().t()
        return product


def check(options: Options, model: nn.Module, family: Family) -> None:
    """Refuse graph names and patterns that fit nothing; warn where this CPU loses precision."""
    graphs = family.graphs(model, cache="dynamic")
    parts = [graph.name.partition("_")[0] for graph in graphs]
    unknown = sorted(set(options.dtype) - set(parts)) if isinstance(options.dtype, dict) else []
    if unknown:
        msg = f"dtype: there is no graph {unknown[0]!r}; the graphs are {', '.join(parts)}"
        raise RecipeError(msg)
    _plan(options, model, family)
    signed = options.preset not in _UNSIGNED_PRESETS and not options.reduce_range
    int8 = any(options.precision(graph.name) == "int8" for graph in graphs)
    if int8 and signed and describe().isa.startswith("x86-64") and not describe().vnni:
        _log.warning(
            "this CPU has no VNNI, so 8-bit products may saturate here and words may be lost: "
            "to run on it, build with `reduce_range: true` or `preset: avx2`"
        )


def layout(
    options: Options, model: nn.Module, checkpoint: Checkpoint, family: Family
) -> dict[str, int]:
    """Foretell the files' sizes: weights from the modules that are traced, graphs about right."""
    files = {"ort_config.json": _ORT_CONFIG_BYTES}
    for name in (graph.name for graph in family.graphs(model, cache="dynamic")):
        graph = _prepared(options, checkpoint, family, name).graph
        weights = dict(graph.module.named_parameters())  # shared ones once, as they are written
        files[f"{name}.onnx_data"] = sum(weight.nbytes for weight in weights.values())
        modules = graph.module.modules()
        linears = sum(isinstance(each, _Int8MatMul | _FloatMatMul) for each in modules)
        files[f"{name}.onnx"] = _LINEAR_BYTES * linears + _INPUT_BYTES * len(graph.inputs)
    return files


def trials(_options: Options, _model: nn.Module, _checkpoint: Checkpoint, _family: Family) -> int:
    """Nothing is left to the build."""
    return 0


def build(job: Job[Options]) -> Outcome:
    """Write one ONNX file with external data per graph, and `ort_config.json`."""
    skeleton = job.family.skeleton(job.checkpoint.config)
    for name in [graph.name for graph in job.family.graphs(skeleton, cache="dynamic")]:
        _build_graph(job, _prepared(job.options, job.checkpoint, job.family, name))
    _write_ort_config(job.folder, job.options)
    needs = Needs(packages=("onnxruntime",))
    return Outcome(needs=needs, options=job.options.model_dump(mode="json"))


@dataclass(frozen=True)
class _Prepared:
    """A graph ready to be traced, the model it is cut from, and what reads their weights.

    Those in `transposed` are stored [in, out], as ONNX multiplies.
    """

    graph: Graph
    model: nn.Module
    weights: Weights
    transposed: frozenset[str]


def _prepared(options: Options, checkpoint: Checkpoint, family: Family, name: str) -> _Prepared:
    """One graph of a model of its own, in the types in which its weights are stored."""
    model = family.skeleton(checkpoint.config)
    precision = options.precision(name)
    plan = _plan(options, model, family) if precision == "int8" else Plan()
    weights = Weights(checkpoint, plan, family.TIED)
    keep_narrow(model, weights)
    transposed = _swap_linears(model, plan, precision, options)
    for head, stored in family.TIED.items():
        module, table = (model.get_submodule(n.rpartition(".")[0]) for n in (head, stored))
        if isinstance(module, _FloatMatMul) and head not in checkpoint.tensors:
            replace_module(model, head.rpartition(".")[0], _TiedMatMul(table))
    graph = next(g for g in family.graphs(model, cache="dynamic") if g.name == name)
    return _Prepared(graph, model, weights, frozenset(transposed))


def _build_graph(job: Job[Options], prepared: _Prepared) -> None:
    """Trace a graph, unless that was done before, and stream its weights in."""
    graph = prepared.graph
    names = parameter_names(graph, prepared.model)
    unsigned = job.options.preset in _UNSIGNED_PRESETS

    def trace() -> None:
        job.progress(f"tracing {graph.name}", None)
        onnx_file.save(_trace(graph), path, names)

    def read(name: str) -> Tensor:
        tensor = prepared.weights.read(names[name])
        if names[name] not in prepared.transposed:
            return tensor
        if tensor.dtype == torch.int8 and unsigned:
            tensor = (tensor.short() + _UNSIGNED_ZERO).to(torch.uint8)
        return tensor.t()

    path = job.folder / f"{graph.name}.onnx"
    parts = {
        "graph": graph.name,
        "opset": _OPSET,
        "architecture": job.family.architecture(job.checkpoint.config),
        "weights": {n: f"{t.dtype} {t.shape}" for n, t in graph.module.named_parameters()},
        "versions": installed_versions(),
    }
    obtain(path, f"onnx-int8 {path.name} of {job.size}", parts, trace, fresh=job.fresh)
    onnx_file.fill(path, read, job.progress)


def load(folder: Path, manifest: Manifest, family: Family, threads: int) -> Any:
    """Open a session per graph and join them into a model that generates."""
    functions = {path.stem: _Session(path, threads) for path in sorted(folder.glob("*.onnx"))}
    return family.assemble(folder, functions)


class _Session:
    """A graph in onnxruntime; tensors go in and out without a copy."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin long take the cores of torch and of the other session, and those that
        # sleep at once wake late. In ms, with no spinning, 50 us, and no end: a token of
        # whisper-small 12.6, 9.1, 9.0; a greedy clip of the demo 15.9, 15.7, 32.5.
        options.add_session_config_entry("session.intra_op.allow_spinning", _SPINNING)
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
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


def _swap_linears(model: nn.Module, plan: Plan, precision: Precision, options: Options) -> set[str]:
    """Swap in the linear modules that ONNX wants; name the weights, stored [in, out]."""
    int8 = torch.uint8 if options.preset in _UNSIGNED_PRESETS else torch.int8
    kept = torch.float32 if precision == "int8" else getattr(torch, precision)
    transposed = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            planned = plan.modules.get(name)
            new = _Int8MatMul(module, planned, int8) if planned else _FloatMatMul(module, kept)
            replace_module(model, name, new)
            transposed.add(f"{name}.weight")
    return transposed


def _trace(graph: Graph) -> ir.Model:
    """Trace a graph to ONNX, weights still absent."""
    traced = graph.first or graph
    axes = [traced.dynamic.get(name, {}) for name in traced.inputs]
    dynamic = tuple(dict.fromkeys(named, torch.export.Dim.DYNAMIC) for named in axes)
    program = torch.export.export(
        traced.module,
        tuple(traced.inputs.values()),
        dynamic_shapes={"inputs": dynamic},
        strict=False,
    )
    operators = torch.ops.exporter
    exported = torch.onnx.export(
        program,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=_OPSET,
        input_names=list(traced.inputs),
        output_names=list(traced.outputs),
        custom_translation_table={
            operators.int8_matmul.default: _int8_matmul_nodes,
            operators.attention.default: onnx_graph.attention,
            operators.cross_attention.default: placeholder(onnx_graph.CROSS_ATTENTION, 6, 3),
            operators.layer_boundary.default: placeholder(onnx_graph.LAYER_BOUNDARY, 1, 1),
        },
    )
    if exported is None:
        msg = f"torch.onnx.export gave nothing for {graph.name}"
        raise BuildError(msg)
    if graph.first is not None:
        onnx_graph.repeat_layer(exported.model, graph)
    onnx_graph.name_axes(exported.model, graph)
    onnx_graph.condition_cross_attention(exported.model)
    return exported.model


def _int8_matmul_nodes(states: Any, weight: Any, scale: Any) -> Any:
    """The nodes that onnxruntime fuses into one `DynamicQuantizeMatMul`."""
    codes, step, zero = op.DynamicQuantizeLinear(states)
    operands = [codes, weight, zero]
    if weight.dtype == ir.DataType.UINT8:
        operands.append(op.Cast(op.Constant(value_int=_UNSIGNED_ZERO), to=int(ir.DataType.UINT8)))
    product = op.Cast(op.MatMulInteger(*operands), to=int(ir.DataType.FLOAT))
    return op.Mul(product, op.Mul(step, scale))


def _write_ort_config(folder: Path, options: Options) -> None:
    """Record the quantization in optimum's terms, where its tools look for it."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTConfig

    if isinstance(options.dtype, str) and options.dtype != "int8":
        ORTConfig(opset=_OPSET).save_pretrained(folder)
        return
    chosen: dict[str, Any] = {"is_static": False, "per_channel": options.per_channel}
    if options.preset in ("avx512", "avx2"):
        chosen["reduce_range"] = options.reduce_range
    preset = getattr(AutoQuantizationConfig, options.preset)(**chosen)
    preset.reduce_range = options.reduce_range
    preset.operators_to_quantize = ["MatMul", "Gemm"]
    preset.nodes_to_exclude = list(options.exclude)
    ORTConfig(opset=_OPSET, quantization=preset).save_pretrained(folder)
