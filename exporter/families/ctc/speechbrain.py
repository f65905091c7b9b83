"""A SpeechBrain recogniser as a module of transformers: encoder, head network, projection.

No class of transformers computes it, so this one is also what torch-int8 is rebuilt as. Its forward
is written from SpeechBrain's own, with transformers' forward of the encoder; batch norms are folded
into the linear layers before them. Names: `wav2vec2`, `enc.linear1` and on, and `lm_head`.
Source: https://github.com/speechbrain/speechbrain/blob/develop/speechbrain/inference/ASR.py and
speechbrain/integrations/huggingface/wav2vec2.py.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_linear_bn_weights
from transformers import Wav2Vec2Config, Wav2Vec2Model, Wav2Vec2PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from exporter.families.derived import Derivation

SLOPE = 0.01  # of torch's LeakyReLU, below zero
EPSILON = 1e-5  # of torch's layer norm and batch norm
_PLAIN, _NORM = ".w.", ".norm."


class SpeechBrainConfig(Wav2Vec2Config):  # type: ignore[misc]
    """The encoder's config, and what is around it.

    Attributes:
        normalize_samples: Whether each recording is normalised.
        output_norm: Whether the encoder's outputs are normalised, over all frames and channels.
        head_widths: The outputs of each layer of the head network.
    """

    model_type = "speechbrain-wav2vec2-ctc"

    def __init__(
        self,
        normalize_samples: bool = True,
        output_norm: bool = False,
        head_widths: Sequence[int] = (1024,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.normalize_samples = normalize_samples
        self.output_norm = output_norm
        self.head_widths = list(head_widths)


class HeadNetwork(nn.Module):
    """Linear layers `linear1` and on, each with a LeakyReLU behind it."""

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        for number, own in enumerate(widths, start=1):
            self.add_module(f"linear{number}", nn.Linear(width, own))
            width = own

    def forward(self, states: Tensor) -> Tensor:
        for linear in self.children():
            states = functional.leaky_relu(linear(states), SLOPE)
        return states


class SpeechBrainForCTC(Wav2Vec2PreTrainedModel):  # type: ignore[misc]
    """input_values [batch, samples] -> logits [batch, frames, vocabulary]."""

    config_class = SpeechBrainConfig

    def __init__(self, config: SpeechBrainConfig) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.enc = HeadNetwork(config.hidden_size, config.head_widths)
        self.lm_head = nn.Linear(config.head_widths[-1], config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 - SpeechBrain passes none on
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple[Tensor]:
        """Compute logits of samples, which are not normalised; no recording may be padded."""
        if self.config.normalize_samples:
            input_values = functional.layer_norm(input_values, input_values.shape[1:])
        states = self.wav2vec2(input_values).last_hidden_state
        if self.config.output_norm:
            states = functional.layer_norm(states, states.shape[1:])
        logits = self.lm_head(self.enc(states))
        return (logits,) if return_dict is False else CausalLMOutput(logits=logits)


def derived(widths: Sequence[int]) -> dict[str, list[Derivation]]:
    """Return how each layer of a head network is computed from SpeechBrain's tensors.

    Args:
        widths: The outputs of each layer.
    """
    forms: dict[str, list[Derivation]] = {}
    for number in range(1, len(widths) + 1):
        linear, norm = f"enc.linear{number}", f"enc.bn{number}.norm"
        weight, bias = f"{linear}.w.weight", f"{linear}.w.bias"
        scale, shift = f"{norm}.weight", f"{norm}.bias"
        mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
        forms[f"{linear}.weight"] = [
            Derivation((weight, scale, variance), _weight),
            Derivation((weight,), _same),
        ]
        forms[f"{linear}.bias"] = [
            Derivation((bias, scale, shift, mean, variance), _bias),
            Derivation((bias,), _same),
        ]
    return forms


def _weight(weight: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
    return weight * (scale / (variance + EPSILON).sqrt())[:, None]


def _bias(bias: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (bias - mean) * (scale / (variance + EPSILON).sqrt()) + shift


def _same(tensor: Tensor) -> Tensor:
    return tensor


def fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's weights by the model's names, with batch norms fused by torch.

    Args:
        state: The tensors as SpeechBrain names them below `enc`.
    """
    plain = {name.replace(_PLAIN, "."): tensor for name, tensor in state.items()}
    for name in [each for each in plain if each.endswith(f"{_NORM}running_mean")]:
        norm = name.removesuffix("running_mean")
        linear = norm.removesuffix(_NORM).replace("enc.bn", "enc.linear")
        mean, variance, scale, shift = (
            plain.pop(norm + leaf).float()
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        weight, bias = (plain[f"{linear}.{leaf}"].float() for leaf in ("weight", "bias"))
        both = fuse_linear_bn_weights(weight, bias, mean, variance, EPSILON, scale, shift)
        plain[f"{linear}.weight"], plain[f"{linear}.bias"] = (each.detach() for each in both)
    return plain
