"""Transcribe with the original: transformers' own features, `generate`, and our text of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from exporter.families.whisper.decoding.settings import generation_settings, with_settings
from exporter.formats.audio import whole
from exporter.runtime.transcript import Segment, Sound, Transcript
from exporter.runtime.whisper.features.long_log_mel import LongLogMel
from exporter.runtime.whisper.options import Options, lead_of
from exporter.runtime.whisper.settings import Settings
from exporter.runtime.whisper.text import Text
from exporter.runtime.whisper.transcribe import Part, Piece, batches, given_language, joined


class LongFeatures:
    """The features of a long recording as the tensor [1, mels, frames] for `generate`.

    It takes slices of them in order.

    Attributes:
        shape: The shape of that tensor.
        device: The device of the slices.
    """

    def __init__(self, features: LongLogMel, mels: int, device: torch.device) -> None:
        self.shape = torch.Size((1, mels, features.frames))
        self.device = device
        self._features = features

    def __getitem__(self, where: tuple[slice, slice, slice]) -> Tensor:
        """Return a slice of frames, with all of the two other axes."""
        start, stop = int(where[2].start or 0), min(int(where[2].stop), self.shape[-1])
        return torch.from_numpy(self._features.part(start, stop))[None].to(self.device)


def transcribe(
    model: Any,
    extractor: Any,
    settings: Settings,
    text: Text,
    sounds: Sequence[Sound],
    options: Options,
) -> list[Transcript]:
    """Transcribe recordings, in order.

    Those within a window are decoded together if `generate` can, longer ones one by one.

    Args:
        model: A `WhisperForConditionalGeneration`.
        extractor: Its `WhisperFeatureExtractor`.
        settings: What its configs say.
        text: Its tokenizer.
        sounds: The recordings.
        options: The options.
    """
    original = _Original(model, extractor, settings, text, options)
    batch = options if options.together else replace(options, batch_size=1)
    parts: list[list[Part]] = [[] for _ in sounds]
    languages: dict[int, str] = {}
    for pieces in batches(sounds, settings, batch, long=1):
        decoded = original.decode(pieces, languages)
        for piece, found in zip(pieces, decoded, strict=True):
            parts[piece.place] += found
    given = given_language(settings, options)
    return [
        replace(joined(text, each), language=languages.get(place, given))
        for place, each in enumerate(parts)
    ]


@dataclass(frozen=True)
class _Original:
    """The arguments of `transcribe`."""

    model: Any
    extractor: Any
    settings: Settings
    text: Text
    options: Options

    def decode(self, pieces: Sequence[Piece], languages: dict[int, str]) -> list[list[Part]]:
        """Return the segments of pieces that are decoded together: several short ones, or a long.

        Args:
            pieces: The pieces.
            languages: The languages of recordings that were found, by place; added to.
        """
        settings, options = self.settings, self.options
        timestamps = pieces[0].is_long or options.timestamps
        config = generation_settings(self.model, settings, options, timestamps=timestamps)
        arguments = _arguments(settings, self.text, options, self.model.device)
        with torch.inference_mode():
            features, mask, lengths = self._features(pieces)
            view = with_settings(self.model, config)
            if settings.languages and config.language is None:
                config.language = self._languages(view, features, pieces, languages)
            generated = view.generate(
                features, attention_mask=mask, return_segments=True, **arguments
            )
        return [
            [self._part(one, piece, length / settings.mel.rate) for one in segments]
            for segments, piece, length in zip(generated["segments"], pieces, lengths, strict=True)
        ]

    def _features(
        self, pieces: Sequence[Piece]
    ) -> tuple[Tensor | LongFeatures, Tensor | None, list[int]]:
        """Return features, their mask, and the pieces' samples.

        Those of a long piece come window by window: transformers would hold all of it in memory.
        """
        device, mel = self.model.device, self.settings.mel
        if pieces[0].is_long:
            features = LongLogMel(mel, pieces[0].sound)
            return LongFeatures(features, mel.mels, device), None, [features.samples]
        sounds = [piece.sound for piece in pieces]
        lengths = [len(whole(sound)) for sound in sounds]
        return *short_features(self.extractor, sounds, device), lengths

    def _languages(
        self, view: Any, features: Any, pieces: Sequence[Piece], languages: dict[int, str]
    ) -> list[str]:
        """Return the language of each piece's recording: that of its first window.

        `generate` would find the same, and not tell it, nor know which chunks are of one recording.
        """
        codes = {token: code for code, token in self.settings.languages.items()}
        size = self.settings.mel.frames
        for row, piece in enumerate(pieces):
            if piece.place not in languages:
                rows = features if piece.is_long else features[row : row + 1]
                (found,) = view.detect_language(rows, num_segment_frames=size).tolist()
                languages[piece.place] = codes[found]
        return [languages[piece.place] for piece in pieces]

    def _part(self, one: dict[str, Any], piece: Piece, length_s: float) -> Part:
        """Return a segment of `generate`, and its tokens."""
        tokens: list[int] = one["tokens"].tolist()
        segment = Segment(float(one["start"]), float(one["end"]), self.text.decode(tokens))
        return piece.placed(segment, length_s), tokens


def short_features(
    extractor: Any, sounds: Sequence[Sound], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return transformers' features [recordings, mels, frames] of short ones, and their mask."""
    computed = extractor(
        [whole(sound) for sound in sounds],
        sampling_rate=extractor.sampling_rate,
        truncation=False,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return computed.input_features.to(device), computed.attention_mask.to(device)


def _arguments(
    settings: Settings, text: Text, options: Options, device: torch.device
) -> dict[str, Any]:
    """Return those options that are arguments of `generate`."""
    lead = lead_of(options, settings, text)
    arguments: dict[str, Any] = {
        "temperature": options.temperatures,
        "compression_ratio_threshold": options.compression_ratio_threshold,
        "logprob_threshold": options.logprob_threshold,
        "no_speech_threshold": options.no_speech_threshold,
        "condition_on_prev_tokens": options.condition_on_previous,
    }
    if lead.whole:
        arguments["prompt_ids"] = torch.tensor(lead.whole, device=device)
        if options.hotwords and options.condition_on_previous:
            arguments["prompt_condition_type"] = "all-segments"
    return arguments
