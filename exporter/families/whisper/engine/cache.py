"""The decoder's cache, as a cache object of `generate`."""

from dataclasses import fields

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput

CACHE = next(
    field.name for field in fields(Seq2SeqLMOutput) if field.name in ("cache", "past_key_values")
)
"""What transformers calls a cache, in arguments and in results; releases differ."""


class GraphCache(Cache):  # type: ignore[misc]
    """Past tokens of a batch of hypotheses, as named tensors with the batch first."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.length = 0
        self.tensors: dict[str, Tensor] = {}
        self.shared: dict[str, Tensor] = {}

    def get_seq_length(self, _layer: int = 0) -> int:
        """Return the number of tokens already decoded."""
        return self.length

    def crop(self, max_length: int) -> None:
        """Forget tokens after the first `max_length`; if that is not positive, the last of them.

        Their keys and values stay in place: they are masked, and the next tokens overwrite them.
        Newer releases of transformers give only numbers below 1, older ones only others.
        """
        kept = max_length if max_length > 0 else self.length + max_length
        self.length = min(self.length, kept)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder rows for a beam search; `shared` is equal for all beams of a clip."""
        self.tensors = {name: t.index_select(0, beam_idx) for name, t in self.tensors.items()}
