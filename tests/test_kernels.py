"""Our own kernels, compiled for every level of CPU that this machine has, against their meaning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exporter import attention, machine
from exporter.graphs import Graph
from exporter.targets.aoti import linear
from exporter.targets.aoti.compiling import compile_graph
from exporter.targets.aoti.package import Package, read_spec

LEVELS = {
    "x86-64-v3": ("x86-64-v3", ()),
    "x86-64-v4": ("x86-64-v4", ()),
    "with VNNI": ("x86-64-v4", ("avx512_vnni",)),
    "with VNNI and bf16": ("x86-64-v4", ("avx512_vnni", "avx512_bf16")),
}


class Linears(nn.Module):
    """An odd number of columns after an odd width, with and without bias and GELU."""

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        codes = torch.randint(-127, 128, (columns, width), dtype=torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(torch.rand(columns) / 100, requires_grad=False)
        self.bias = nn.Parameter(torch.randn(columns), requires_grad=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        plain = linear.int8_linear(inputs[0], self.weight, self.scale, None, False)
        active = nn.functional.gelu(
            linear.int8_linear(inputs[0], self.weight, self.scale, self.bias, False)
        )
        return plain, active


class Attentions(nn.Module):
    """The three kinds of attention side by side."""

    heads = 2

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        query, window, cross, ancestors, position, key_cache, value_cache = inputs
        everything = attention.attention(window, window * 0.5, window.flip(1), self.heads)
        step = attention.step_attention(
            query, query * 0.5, query + 1, key_cache, value_cache, ancestors, position
        )
        return everything, step, attention.window_attention(query, cross, 1)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> dict[str, Any]:
    march, extensions = LEVELS[request.param]
    missing = (machine.level_features(march) | set(extensions)) - machine.describe().features
    if missing:
        pytest.skip(f"this CPU has no {', '.join(sorted(missing))}")
    return {"march": march, "extensions": extensions}


def compiled(module: nn.Module, graph: Graph, folder: Path, level: dict[str, Any]) -> Package:
    path = folder / f"{graph.name}.pt2"
    names = {name: name for name, _ in module.named_parameters()}
    compile_graph(graph, module, names, path, threads=None, **level)
    return Package(path, read_spec(path), {n: p.data for n, p in module.named_parameters()})


@pytest.mark.parametrize(("width", "columns"), [(64, 101), (200, 64), (36, 13)])
def test_linear(level: dict[str, Any], tmp_path: Path, width: int, columns: int) -> None:
    module = Linears(width, columns)
    shape = ("rows", columns)
    graph = Graph(
        "linears",
        module,
        {"states": torch.empty((3, width), device="meta")},
        {"states": {0: "rows"}},
        {"plain": shape, "active": shape},
    )
    run = compiled(module, graph, tmp_path, level)
    for rows in (1, 2, 3, 4, 5, 6, 11, 63, 64, 65, 133):
        states = torch.randn(rows, width) * torch.logspace(-3, 3, rows)[:, None]
        found, wanted = run({"states": states}), module(states)
        for result, expected in zip(found.values(), wanted, strict=True):
            # A code that rounds the other way moves a sum by a weight times a scale.
            slack = (states.abs().amax(1, keepdim=True) / 127 * module.scale * 127).clamp_min(1e-6)
            assert ((result - expected).abs() <= 1.01 * slack + 1e-5 * expected.abs()).all()
            close = (result - expected).abs() <= 1e-4 * expected.abs() + 1e-5
            assert close.float().mean() > 0.9
    silent = run({"states": torch.zeros(2, width)})
    torch.testing.assert_close(silent["plain"], torch.zeros(2, columns))


@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
def test_attention(level: dict[str, Any], tmp_path: Path, head_dim: int) -> None:
    torch.manual_seed(0)
    module, heads, places, source, length = Attentions(), Attentions.heads, 24, 75, 131
    width = heads * head_dim

    def inputs_of(windows: int, beams: int, tokens: int, start: int) -> dict[str, Tensor]:
        rows = windows * beams
        earlier = torch.randint(0, rows, (rows, places), dtype=torch.int32)
        cache = (rows, heads, places, head_dim)
        return {
            "query": torch.randn(rows, tokens, width) / 3,
            "window": torch.randn(windows, length, width) / 2,
            "cross": attention.packed(torch.randn(windows, 4, heads, source, head_dim)),
            "ancestors": earlier,
            "position": torch.tensor([start]),
            "key_cache": torch.randn(cache).half(),
            "value_cache": torch.randn(cache).half(),
        }

    examples = {name: t.to("meta") for name, t in inputs_of(2, 2, 3, 4).items()}
    by_rows = {name: {0: "rows"} for name in ("ancestors", "key_cache", "value_cache")}
    by_windows = {name: {0: "windows"} for name in ("window", "cross")}
    dynamic = {**by_rows, **by_windows, "query": {0: "rows", 1: "tokens"}}
    step = ("rows", "tokens", width)
    graph = Graph(
        "attentions",
        module,
        examples,
        dynamic,
        {"all": ("windows", length, width), "step": step, "cross": step},
        mutated=("key_cache", "value_cache"),
    )
    run = compiled(module, graph, tmp_path, level)
    for shape in ((1, 1, 1, 0), (1, 1, 4, 0), (1, 5, 1, 7), (3, 2, 2, 9), (2, 1, 1, places - 1)):
        inputs = inputs_of(*shape)
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        found, wanted = run(inputs), module(*own.values())
        for name, expected, error in zip(found, wanted, (2e-2, 2e-3, 2e-3), strict=True):
            torch.testing.assert_close(found[name], expected, rtol=error, atol=error)
        for name in ("key_cache", "value_cache"):
            assert torch.equal(inputs[name], own[name])


def test_positions_and_rows_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    """A kernel reads memory by these numbers: a wrong one must not reach it."""
    module = Attentions()
    inputs = {
        "query": torch.randn(1, 2, 64),
        "window": torch.randn(1, 8, 64),
        "cross": attention.packed(torch.randn(1, 4, 2, 8, 32)),
        "ancestors": torch.zeros(1, 6, dtype=torch.int32),
        "position": torch.tensor([2]),
        "key_cache": torch.zeros(1, 2, 6, 32).half(),
        "value_cache": torch.zeros(1, 2, 6, 32).half(),
    }
    examples = {name: tensor.to("meta") for name, tensor in inputs.items()}
    outputs = {"all": (1, 8, 64), "step": (1, 2, 64), "cross": (1, 2, 64)}
    caches = ("key_cache", "value_cache")
    graph = Graph("attentions", module, examples, {}, outputs, mutated=caches)
    run = compiled(module, graph, tmp_path, {"march": "x86-64-v3", "extensions": ()})
    run(inputs)
    with pytest.raises(RuntimeError):
        run({**inputs, "position": torch.tensor([5])})
    with pytest.raises(RuntimeError):
        run({**inputs, "position": torch.tensor([-1])})
    with pytest.raises(RuntimeError):
        run({**inputs, "ancestors": torch.full((1, 6), 1, dtype=torch.int32)})


def test_packed_numbers_keep_their_scale() -> None:
    states = torch.randn(3, 5, 16) * torch.logspace(-30, 30, 5)[:, None]
    kept = attention.unpacked(attention.packed(states))
    assert ((kept - states).abs() <= 0.51 * states.abs().amax(-1, keepdim=True) / 127).all()
    nothing = attention.unpacked(attention.packed(torch.zeros(2, 16)))
    assert torch.equal(nothing, torch.zeros(2, 16))
