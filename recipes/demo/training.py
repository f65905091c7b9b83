"""The training loop's parts that both models share: workers, optimizer, saved state, log.

Every worker is a process with one thread: for matrices this small that is faster than one process
with several threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

SEED = 20261121
WARMUP = 200  # steps


def run_workers(
    train: Callable[[int, int, int, Path, Path], None],
    workers: int,
    steps: int,
    work: Path,
    output: Path,
) -> None:
    """Call `train(worker, workers, steps, work, output)` in as many connected processes."""
    # A file left behind by a stopped run would make the workers wait for its processes.
    (work / "rendezvous").unlink(missing_ok=True)
    settings = (train, workers, steps, work, output)
    torch.multiprocessing.spawn(_run_worker, settings, nprocs=workers)  # type: ignore


def _run_worker(
    worker: int,
    train: Callable[[int, int, int, Path, Path], None],
    workers: int,
    steps: int,
    work: Path,
    output: Path,
) -> None:
    start_logging(logging.WARNING if worker else logging.INFO)
    torch.set_num_threads(1)
    rendezvous = f"file://{work / 'rendezvous'}"
    dist.init_process_group("gloo", rendezvous, rank=worker, world_size=workers)
    torch.manual_seed(SEED)
    train(worker, workers, steps, work, output)
    dist.destroy_process_group()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up, then fall to zero, both linearly."""
    return peak * min((step + 1) / WARMUP, (steps - step) / (steps - WARMUP))


def optimizer_for(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only."""
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": 0.02},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


class Trainer:
    """One worker's copy of model and optimizer; all copies stay equal."""

    def __init__(self, model: nn.Module, workers: int) -> None:
        self.model, self.workers = model, workers
        self.step, self.seconds = 0, 0.0
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer_for(parameters)
        # All gradients share one buffer, which the workers sum in one message.
        sizes = [parameter.numel() for parameter in parameters]
        self.gradients = torch.zeros(sum(sizes))
        for parameter, piece in zip(parameters, torch.split(self.gradients, sizes), strict=True):
            parameter.grad = piece.view_as(parameter)

    def update(self, loss: Tensor, rate: float) -> None:
        """Make one step against this worker's loss and those of the others."""
        self.gradients.zero_()
        loss.backward()
        dist.all_reduce(self.gradients)
        self.gradients /= self.workers
        self.gradients *= (1.0 / (self.gradients.norm() + 1e-6)).clamp(max=1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1

    def save(self, path: Path) -> None:
        """Write everything that training continues from, never half a file."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(path)

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def start_logging(level: int) -> None:
    """Log from here on; transformers would repeat advice on every call of `generate`."""
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    transformers_logging.set_verbosity_error()
