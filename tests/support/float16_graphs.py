"""Artifacts' folders of onnx-fp16, in float16 or in float32, without the rest of a build."""

from pathlib import Path
from typing import Any

import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.quantization.schemes import SCHEMES
from exporter.runtime.onnx.buffers import Memory
from exporter.runtime.onnx.device_whisper import GRAPHS, Engine
from exporter.runtime.onnx.session import open_graph
from exporter.targets.base import Job
from exporter.targets.onnx.cuda.options import Options
from exporter.targets.onnx.cuda.target import form, write_graphs
from tests.support.plans import plan_for


def write(
    checkpoint: Path, folder: Path, scheme: str = "float", dtype: torch.dtype = torch.float16
) -> Path:
    """Write the graphs of a checkpoint, and its small files, into a new folder."""
    folder.mkdir(parents=True)
    opened, family = open_checkpoint(str(checkpoint)), FAMILIES["whisper"]
    plan = plan_for(family.skeleton(opened.config), SCHEMES[scheme].Scheme())
    job: Any = Job(opened, family, Options(), plan, folder, lambda *_: None)
    write_graphs(job, form(dtype))
    opened.copy_companions(folder)
    return folder


def open_on_cpu(folder: Path) -> Engine:
    """Open the graphs on onnxruntime's CPU provider, with the memory of the host as a device's."""
    files = {name: folder / f"{name}.onnx" for name in GRAPHS}
    graphs = {name: open_graph(path, path.read_bytes(), 1) for name, path in files.items()}
    return Engine(graphs, Memory("cpu"))
