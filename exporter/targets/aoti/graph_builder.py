"""Build one graph of a model as a package: replace modules, trace, compile."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.families.base import Family
from exporter.families.graph import Graph, parameter_names
from exporter.formats.tensor_io import Layout
from exporter.quantization.modules import keep_16bit_storage, stored
from exporter.quantization.plan import QuantizationPlan, shared_tables
from exporter.quantization.weights import Weights
from exporter.system.build_cache import get_or_build
from exporter.system.hardware import describe, installed_versions
from exporter.targets.aoti.compiler import compile_graph, compiler_version
from exporter.targets.aoti.devices import SUPPORT
from exporter.targets.aoti.modules import replace_modules
from exporter.targets.aoti.options import Options, Variant
from exporter.targets.aoti.package import read_spec
from exporter.targets.base import Job


@dataclass(frozen=True)
class StoredTensors:
    """Reads a model's tensors as its replaced modules hold them."""

    model: nn.Module
    weights: Weights

    def read(self, name: str) -> Tensor:
        """Return the tensor `name`."""
        return stored(self.model, name, self.weights.read(name))


@dataclass(frozen=True)
class Setup:
    """The options, the plan and each graph's variant, which decide how graphs are compiled."""

    options: Options
    plan: QuantizationPlan
    variants: Mapping[str, Variant]

    def with_variant(self, graph: str, variant: Variant) -> "Setup":
        """Return the setup with another variant of one graph."""
        return replace(self, variants={**self.variants, graph: variant})

    def plan_of(self, graph: str) -> QuantizationPlan:
        """Return the plan for a graph: an empty one if its variant is not quantized."""
        return self.plan if self.variants[graph].quantized else QuantizationPlan()


def setup_of(options: Options, plan: QuantizationPlan, model: nn.Module, family: Family) -> Setup:
    """Return the setup of the options and the plan."""
    names = [graph.name for graph in family.graphs(model, cache="static")]
    return Setup(options, plan, {name: options.variant(name) for name in names})


def graphs(job: Job[Options], dtype: torch.dtype = torch.float32) -> list[Graph]:
    """Return the static graphs of the job's model, which compute in `dtype`."""
    return job.family.graphs(job.family.skeleton(job.checkpoint.config, dtype), cache="static")


def taken(job: Job[Options], setup: Setup) -> dict[str, torch.dtype]:
    """Return the type of each input of all graphs, by the input's name."""
    precisions = {name: variant.precision for name, variant in setup.variants.items()}
    cuts = {dtype: graphs(job, dtype) for dtype in set(precisions.values())}
    return {
        name: tensor.dtype
        for index, graph in enumerate(precisions)
        for name, tensor in cuts[precisions[graph]][index].inputs.items()
    }


def build_graph(
    job: Job[Options], setup: Setup, name: str, taken: Mapping[str, torch.dtype]
) -> tuple[Layout, StoredTensors]:
    """Compile one graph, or take it from the cache.

    Args:
        job: The job, whose folder gets the package.
        setup: The options, the plan and the variants.
        name: The graph's name.
        taken: The types of all graphs' inputs, from `taken`.

    Returns:
        Type and shape of each weight that the package uses, and the reader of the weights.
    """
    options = setup.options
    graph, model, weights = prepared(setup, job.checkpoint, job.family, name)
    names = parameter_names(graph, model)
    modules = {stored.rpartition(".")[0] for stored in names.values()}
    # Outputs are converted to the type in which the next graph takes them.
    output_dtypes = [taken.get(output) for output in graph.outputs]
    path = job.folder / f"{name}.pt2"

    def compiled() -> None:
        job.progress(f"compiling {name}", None)
        _make_room(graph, SUPPORT[job.device].torch_device)
        module = _Converted(graph.module, output_dtypes)
        inner = {f"module.{own}": stored for own, stored in names.items()}
        compile_graph(
            graph,
            module,
            inner,
            path,
            march=options.march,
            extensions=options.extensions,
            threads=options.threads,
            fresh=job.fresh,
        )

    parts = {
        "graph": graph.name,
        "architecture": job.family.architecture(job.checkpoint.config),
        "options": options.model_dump(mode="json", exclude={"dtype", "onednn"}),
        "variant": asdict(setup.variants[name]),
        "weights": {n: f"{t.dtype} {t.shape}" for n, t in graph.module.named_parameters()},
        "schemes": {n: str(s) for n, s in job.plan.quantized.items() if n in modules},
        "given": [str(dtype) for dtype in output_dtypes],
        "versions": installed_versions(),
        "compiler": compiler_version(),
        "machine": [describe().cpu, sorted(describe().features)],
        "threads": torch.get_num_threads(),  # Inductor generates code for this number
    }
    what = f"aoti {path.name} of {job.size}"
    makers = (sys.modules[__name__], job.family, *job.plan.quantized.values())
    get_or_build(path, what, parts, compiled, makers=makers, fresh=job.fresh)
    constants = read_spec(path).constants.values()
    return {c.name: (getattr(torch, c.dtype), c.shape) for c in constants}, weights


def prepared(
    setup: Setup, checkpoint: Checkpoint, family: Family, name: str
) -> tuple[Graph, nn.Module, StoredTensors]:
    """Cut one graph from a new model, with weights in the types in which they are stored.

    Returns:
        The graph, the model it is cut from, and the reader of the model's weights.
    """
    variant, plan = setup.variants[name], setup.plan_of(name)
    model = family.skeleton(checkpoint.config, variant.precision)
    weights = Weights(checkpoint, plan, family.TIED)
    keep_16bit_storage(model, weights)
    shared = shared_tables(family.TIED, checkpoint.tensors)
    replace_modules(model, plan, shared, onednn=bool(variant.onednn), vnni=setup.options.vnni)
    graph = next(g for g in family.graphs(model, cache="static") if g.name == name)
    return graph, model, StoredTensors(model, weights)


def _make_room(graph: Graph, device: torch.device) -> None:
    """Allocate a graph's parameters without writing them: the compiler reads no values.

    Tied parameters stay tied.
    """
    allocated: dict[int, nn.Parameter] = {}
    for name, absent in list(graph.module.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        room = torch.empty(absent.shape, dtype=absent.dtype, device=device)
        allocated.setdefault(id(absent), nn.Parameter(room, requires_grad=False))
        setattr(graph.module.get_submodule(owner), leaf, allocated[id(absent)])


class _Converted(nn.Module):
    """A graph with its outputs converted to the types that later graphs take."""

    def __init__(self, module: nn.Module, dtypes: Sequence[torch.dtype | None]) -> None:
        super().__init__()
        self.module = module
        self._dtypes = tuple(dtypes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(*inputs)
        pairs = zip(outputs, self._dtypes, strict=True)
        return tuple(tensor if dtype is None else tensor.to(dtype) for tensor, dtype in pairs)
