"""Export a checkpoint's parts for a GPU that is not there, and print what is in their graphs.

Tensors are fake: they have shapes and a device, and no memory. What lets them be on a device that
torch was not built for is loaded for good, so this is a program of its own:

    python -m tests.support.exported_for_cuda CHECKPOINT DTYPE SCHEME FOLDER
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.cuda.absent_gpu import let_tensors_be_on_cuda
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.families.graph import parameter_names
from exporter.quantization.schemes import SCHEMES
from exporter.targets.aoti.cuda.builder import Recipe, cut
from exporter.targets.aoti.cuda.compiler import traced
from tests.support.plans import plan_for


def recipe(checkpoint: str, dtype: str, scheme: str) -> Recipe:
    opened = open_checkpoint(checkpoint)
    family = FAMILIES["whisper"]
    plan = plan_for(family.skeleton(opened.config), SCHEMES[scheme].Scheme(), head=family.HEAD)
    device = torch.device("cuda", 0)
    return Recipe("whisper", opened, plan, getattr(torch, dtype), (1, 5), device)


def main(checkpoint: str, dtype: str, scheme: str, folder: str) -> None:
    let_tensors_be_on_cuda(Path(folder))
    whole = cut(recipe(checkpoint, dtype, scheme))
    found: dict[str, Any] = {}
    for name, (graph, layers) in whole.parts.items():
        names = parameter_names(graph, whole.model)
        with FakeTensorMode(), torch.no_grad():
            program, spec = traced(graph, names, torch.device("cuda", 0), kernels=True)
        called = [node for node in program.graph.nodes if node.op == "call_function"]
        values = [node.meta["val"] for node in program.graph.nodes if "val" in node.meta]
        found[name] = {
            "operators": Counter(str(node.target) for node in called),
            "devices": sorted({str(v.device) for v in values if isinstance(v, torch.Tensor)}),
            "held": [*program.constants],
            "layers": layers,
            "inputs": [*spec.inputs],
            "mutated": [name for name, tensor in spec.inputs.items() if tensor.mutated],
            "outputs": {name: tensor.dtype for name, tensor in spec.outputs.items()},
            "weights": {c.name: [c.dtype, *c.shape] for c in spec.constants.values()},
        }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
