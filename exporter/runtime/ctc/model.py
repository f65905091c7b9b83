"""A CTC model on built graphs, read from the files of an artifact."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.errors import CheckpointError, RecipeError
from exporter.formats.config_json import read_json
from exporter.runtime.ctc.chunks import cut_of
from exporter.runtime.ctc.features import PARAKEET, Values, input_of, whole
from exporter.runtime.ctc.tokens import read_tokens
from exporter.runtime.ctc.transcribe import Logits, Reader
from exporter.runtime.decoding import OPTIONS, refuse_foreign
from exporter.runtime.transcript import Audio, Segment, Sound, Transcript

CONFIG, EXTRACTOR, TARGET = "config.json", "preprocessor_config.json", "target_lang"
GRAPH, OUTPUT = "model", "logits"
DECODING = (
    *("language", "batch_size", "chunk_length_s", "stride_length_s", "timestamps"),
    "word_timestamps",
)

Graph = Callable[[Mapping[str, Values]], Mapping[str, Logits]]
"""A built graph: inputs by name to outputs by name."""

_MOST_TOKENS = 1 << 20


class CtcModel:
    """An open CTC model.

    Attributes:
        functions: The graph by its name. It is looked up at every call, so that measurements can
            replace it.
        sampling_rate: The model's rate in Hz.
        vocabulary: The number of tokens that have text.
        window: The samples of a chunk of the usual length, beyond which recordings are cut.
    """

    def __init__(self, folder: Path, graph: Graph) -> None:
        """Read the configs and the tokenizer of an artifact.

        Args:
            folder: The artifact.
            graph: Its graph.

        Raises:
            CheckpointError: The files are not those of one CTC model.
        """
        config = read_json(folder / CONFIG)
        extractor = read_json(folder / EXTRACTOR)
        inner = extractor.get("feature_extractor")
        self._input = input_of(config, inner if isinstance(inner, dict) else extractor)
        size = whole(config, "vocab_size", 32, 1, _MOST_TOKENS)
        tokens = read_tokens(folder, pieces=config.get("model_type") == PARAKEET)
        if wrong := [*tokens.disagreements(size, config.get("pad_token_id"))]:
            msg = f"{folder}: the tokenizer is another model's: {'; '.join(wrong)}"
            raise CheckpointError(msg)
        self._language = config.get(TARGET)
        self.functions: dict[str, Any] = {GRAPH: graph}
        self.sampling_rate = self._input.rate
        self.window = int(OPTIONS["chunk_length_s"].default * self.sampling_rate)
        ratio = self._input.ratio
        alphabet = tokens.alphabet()
        self.vocabulary = len(alphabet.spelled)
        self._reader = Reader(self._logits, alphabet, self.sampling_rate, ratio)

    def transcribe(self, sounds: Sequence[Sound], decoding: Mapping[str, Any]) -> list[Transcript]:
        """Transcribe recordings (float32 mono [samples] at `sampling_rate`), in order."""
        lengths = decoding["chunk_length_s"], decoding["stride_length_s"]
        words = decoding["word_timestamps"]
        return [self._reader.transcribe(sound, *lengths, words=words) for sound in sounds]

    def segments(
        self, sound: Sound, decoding: Mapping[str, Any]
    ) -> Generator[Segment, None, Transcript]:
        """Transcribe a recording, yield its only segment, and return the transcript."""
        (transcript,) = self.transcribe([sound], decoding)
        yield from transcript.segments
        return transcript

    def check(self, decoding: Mapping[str, Any]) -> None:
        """Check that the model supports the options; raises as `check_decoding`."""
        check_decoding(decoding, self._language, self.sampling_rate, self._input.ratio)

    def limit_tokens(self, tokens: int) -> None:
        """Ignore the limit: a recording has as many frames as it has."""

    def force_tokens(self, tokens: int) -> bool:  # noqa: ARG002
        """Return False: the time depends only on the audio's length."""
        return False

    def _logits(self, samples: Audio) -> Logits:
        outputs = self.functions[GRAPH]({self._input.name: self._input(samples)})
        logits: Logits = outputs[OUTPUT][0]
        return logits


def check_decoding(
    decoding: Mapping[str, Any], language: str | None, rate: int, ratio: int
) -> None:
    """Check the options: a model keeps its language, and a chunk is longer than its strides.

    Args:
        decoding: Every option.
        language: The only language of a model that was one of many; None for any other.
        rate: The sampling rate in Hz.
        ratio: Samples between the beginnings of two frames of logits.

    Raises:
        RecipeError: The model lacks an option or the language, or no frame of a chunk would be its
            own.
    """
    refuse_foreign(decoding, [name for name in DECODING if language or name != "language"])
    wanted, chunk_s = decoding["language"], decoding["chunk_length_s"]
    if wanted not in (None, language):
        msg = f"the model is of the language {language!r:.40} alone, not of {wanted!r:.40}"
        raise RecipeError(msg)
    cut = cut_of(chunk_s, decoding["stride_length_s"], rate, ratio)
    if cut.length <= 2 * cut.stride:
        msg = (
            f"chunk_length_s {chunk_s:g} is not longer than twice stride_length_s: "
            "no frame of a chunk would be its own"
        )
        raise RecipeError(msg)
