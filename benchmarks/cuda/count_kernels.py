"""Count the kernels of a decoder's step in the code that Inductor generates, without a GPU.

    python benchmarks/cuda/count_kernels.py CHECKPOINT [float|dynamic-int8|weight-int8]

Prints JSON: for each part of a step of 1 and 5 rows, the calls of kernels in the generated code,
with this project's kernels and without. The code is for one card, and is not run; products by
cuBLAS count as one kernel each, which may be more.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.cuda.absent_gpu import let_tensors_be_on_cuda, pretend
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.families.graph import parameter_names
from exporter.quantization.plan import match_rules, plan_of, shared_tables
from exporter.quantization.schemes import SCHEMES
from exporter.targets.aoti.cuda.builder import Cut, Recipe, cut
from exporter.targets.aoti.cuda.compiler import traced

ROWS = (1, 5)
_CALL = re.compile(r"^\s+(\w+)\.run\(|^\s+(extern_kernels\.\w+|aten\.\w+\S*)\(", re.MULTILINE)
_SETTINGS = {
    "compile_threads": 1,
    "fx_graph_cache": False,
    "joint_graph_constant_folding": False,  # computes with tensors
    "triton.autotune_at_compile_time": False,
}
_CUDA = torch.device("cuda", 0)


class _GeneratedError(Exception):
    """Ends a compilation once its code is there."""


def cut_of(checkpoint: str, scheme: str) -> Cut:
    """Return the graphs of a checkpoint in float16, with one scheme for all modules."""
    opened, family = open_checkpoint(checkpoint), FAMILIES["whisper"]
    model = family.skeleton(opened.config)
    shared = shared_tables(family.TIED, opened.tensors)
    matches = match_rules(model, {}, SCHEMES[scheme].Scheme(), family.HEAD, shared)
    plan = plan_of(matches, model)
    return cut(Recipe("whisper", opened, plan, torch.float16, ROWS, _CUDA))


def kernels_of(whole: Cut, name: str, *, own: bool) -> list[str]:
    """Return the kernels that the code of a part calls, in order."""
    from torch._inductor import compile_fx, config
    from torch._inductor.exc import InductorError
    from torch._inductor.graph import GraphLowering

    graph, _ = whole.parts[name]
    with FakeTensorMode(), torch.no_grad():
        program, _ = traced(graph, parameter_names(graph, whole.model), _CUDA, kernels=own)
    inputs = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder")]
    generated: list[str] = []

    def stop(lowering: Any) -> None:
        code, _ = lowering.codegen()
        generated.append(code.value)
        raise _GeneratedError

    patched = mock.patch.object(GraphLowering, "compile_to_module", stop)
    with patched, config.patch(_SETTINGS), torch.no_grad():
        try:
            compiled: Any = compile_fx.compile_fx(program.module(), inputs)
            compiled(*inputs)
        except InductorError as error:
            if not isinstance(error.inner_exception, _GeneratedError):
                raise
    return [kernel or product for kernel, product in _CALL.findall(generated[0])]


def counted(whole: Cut) -> Iterator[dict[str, Any]]:
    """Yield a row for each part of each step."""
    for name, (_, layers) in whole.parts.items():
        if name.startswith("step_"):
            ours, theirs = (len(kernels_of(whole, name, own=own)) for own in (True, False))
            yield {"part": name, "times": layers, "kernels": ours, "without_ours": theirs}


def main(checkpoint: str, scheme: str = "float") -> None:
    """Print the counts of a checkpoint's steps."""
    with tempfile.TemporaryDirectory() as folder:
        let_tensors_be_on_cuda(Path(folder))
    pretend()
    rows = [*counted(cut_of(checkpoint, scheme))]
    sys.stdout.write(json.dumps({"scheme": scheme, "parts": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
