"""A CTC model whose computation is a built graph, in the form of a transformers model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from exporter.errors import IntegrityError, RecipeError
from exporter.families.ctc import construct
from exporter.families.ctc.graphs.wav2vec2 import INPUT, OUTPUT
from exporter.families.ctc.kinds import KINDS, first_frame
from exporter.families.graph import GraphFunction

GRAPH = "model"


@dataclass
class Engine:
    """The built graphs by name; looked up at every call."""

    functions: dict[str, GraphFunction]


class GraphCtc(PreTrainedModel):  # type: ignore[misc]
    """A model without weights of its own, for `transcribe` and for transformers' pipeline."""

    main_input_name = INPUT
    _supports_sdpa = True  # as its config says, whatever the graph has

    def __init__(self, config: Any, functions: Mapping[str, GraphFunction]) -> None:
        super().__init__(config)
        self.engine = Engine(dict(functions))
        self.eval()

    @property
    def device(self) -> torch.device:
        """The device of inputs: that of the graph."""
        return self.engine.functions[GRAPH].device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the inputs, whatever the types inside the graph."""
        return torch.float32

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple[Tensor]:
        """Compute logits [batch, frames, vocabulary] of samples [batch, samples].

        Raises:
            RecipeError: The mask hides samples, which a graph without a mask would hear.
        """
        if attention_mask is not None and not attention_mask.all():
            msg = (
                "recordings of different lengths in one batch are not supported by an artifact of "
                "graphs: transcribe them one by one"
            )
            raise RecipeError(msg)
        logits = logits_of(self, input_values.to(self.device, torch.float32).contiguous())
        return (logits,) if return_dict is False else CausalLMOutput(logits=logits)


def assemble(folder: Path, functions: Mapping[str, GraphFunction]) -> GraphCtc:
    """Make a model of an artifact's config and its graph.

    Raises:
        IntegrityError: There are other graphs than that one.
    """
    if set(functions) != {GRAPH}:
        found = ", ".join(sorted(functions)) or "none"
        msg = f"{folder} has other graphs than {GRAPH} ({found}): build it again with --force"
        raise IntegrityError(msg)
    return GraphCtc(construct.config_of(folder), functions)


class EagerGraph:
    """The module of the graph as a graph that is not built; it holds the model's own modules."""

    def __init__(self, model: Any) -> None:
        self.device: torch.device = model.device
        kind = KINDS[model.config.model_type]
        self._module = kind.graph(model, first_frame(model.config)).module

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        wanted: Sequence[str] | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        return {OUTPUT: self._module(inputs[INPUT])[0]}


def attach(model: Any) -> None:
    """Give a transformers model with weights an engine, whose results are those of its forward.

    The forward itself stays transformers', with all of its options.
    """
    # Not as an attribute of the module, whose submodules would be its own once more.
    object.__setattr__(model, "engine", Engine({GRAPH: EagerGraph(model)}))


def logits_of(model: Any, values: Tensor) -> Tensor:
    """Return the logits float32 [batch, frames, vocabulary] of inputs [batch, samples].

    Args:
        model: A model with an engine, or an original.
        values: The inputs; none of them is padded.
    """
    engine = getattr(model, "engine", None)
    if engine is None:
        logits: Tensor = model(values.to(model.dtype)).logits
    else:
        logits = engine.functions[GRAPH]({INPUT: values})[OUTPUT]
    return logits.float()
