"""The merged decoder is one graph where optimum has two: it must give what the two give.

optimum's own export of the same checkpoint, a decoder for the first step and one with a past, is
run beside our merged graph, both in float32 so that only a fault could make a difference. In int8
the two roads through our graph are held against each other. And the files are sound as ONNX.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from transformers import WhisperForConditionalGeneration

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.targets import TARGETS
from exporter.targets.base import Job
from tests.support import exact
from tests.support.optimum import export_with_optimum
from tests.support.plans import FLOAT, whisper_plan
from tests.support.tiny import make_whisper

pytestmark = [pytest.mark.slow, pytest.mark.optimum]

Array = NDArray[Any]
Past = dict[str, Array]
ENCODER, DECODER = "encoder_model.onnx", "decoder_model_merged.onnx"
PROMPT = 4


class Merged:
    """Our graph: every step the same session, with the switch set by whether there is a past."""

    def __init__(self, path: Path, checkpoint: Path) -> None:
        self._session = open_session(path)
        config = open_checkpoint(str(checkpoint)).config
        heads = config["decoder_attention_heads"]
        self._empty = (heads, 0, config["d_model"] // heads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def step(self, ids: Array, encoded: Array, past: Past | None) -> tuple[Array, Past]:
        """Logits [batch, tokens, vocabulary], and the cache with these tokens in it."""
        none = np.zeros((len(ids), *self._empty), np.float32)
        given = past or {n[8:]: none for n in self._outputs if n.startswith("present.")}
        inputs = {
            "input_ids": ids,
            "encoder_hidden_states": encoded,
            "use_cache_branch": np.array([past is not None]),
            **{f"past_key_values.{name}": value for name, value in given.items()},
        }
        logits, present = run(self._session, inputs)
        # With a past, the cross-attention's part comes out empty, and the old one stays.
        kept = past or {}
        return logits, present | {n: v for n, v in kept.items() if ".encoder." in n}


class Separate:
    """optimum's graphs: one for the first step, another one for all that follow."""

    def __init__(self, folder: Path) -> None:
        self._first = open_session(folder / "decoder_model.onnx")
        self._later = open_session(folder / "decoder_with_past_model.onnx")

    def step(self, ids: Array, encoded: Array, past: Past | None) -> tuple[Array, Past]:
        """The same as `Merged.step`."""
        if past is None:
            return run(self._first, {"input_ids": ids, "encoder_hidden_states": encoded})
        named = {f"past_key_values.{name}": value for name, value in past.items()}
        logits, present = run(self._later, {"input_ids": ids, **named})
        return logits, past | present


@dataclass(frozen=True)
class Pair:
    """Both sides of one checkpoint, in float32, and what its encoder gave for three recordings."""

    merged: Merged
    separate: Separate
    encoded: Array
    prompt: Array
    positions: int


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, inputs: Past) -> tuple[Array, Past]:
    """Logits, and the rest of the outputs without their first word."""
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    return outputs.pop("logits"), {name.partition(".")[2]: v for name, v in outputs.items()}


def build_onnx(checkpoint: Path, folder: Path, scheme: QuantizationScheme) -> Path:
    target = TARGETS["onnx-int8"]
    folder.mkdir()
    target.build(
        Job(
            checkpoint=open_checkpoint(str(checkpoint)),
            family=FAMILIES["whisper"],
            options=target.Options(),
            plan=whisper_plan(checkpoint, scheme),
            folder=folder,
            progress=lambda _what, _done: None,
        )
    )
    return folder


def make_untied(folder: Path) -> Path:
    """A checkpoint whose head is a weight of its own: near the embedding, so that it speaks."""
    model = WhisperForConditionalGeneration.from_pretrained(make_whisper(folder))
    generator = torch.Generator().manual_seed(3)
    weight = model.proj_out.weight.detach()
    noise = torch.empty_like(weight).normal_(std=0.02, generator=generator)
    model.config.tie_word_embeddings = False
    model.proj_out.weight = torch.nn.Parameter(weight + noise)
    model.save_pretrained(folder)
    assert "proj_out.weight" in open_checkpoint(str(folder)).tensors
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "tied": make_whisper,
    "untied": make_untied,
    "float16, three heads and layers": lambda folder: make_whisper(
        folder, english_only=True, width=96, heads=3, decoder_layers=3, dtype="float16"
    ),
}


@pytest.fixture(scope="module", params=MAKERS.values(), ids=MAKERS.keys())
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    checkpoint = request.param(folder / "checkpoint")
    built = build_onnx(checkpoint, folder / "built", FLOAT)
    # `no_post_process` leaves the two decoders as they were traced.
    theirs = export_with_optimum(checkpoint, folder / "theirs", no_post_process=True)
    config = open_checkpoint(str(checkpoint)).config
    return Pair(
        Merged(built / DECODER, checkpoint),
        Separate(theirs),
        encode(built, 3, config),
        prompts(3, config),
        config["max_target_positions"],
    )


def encode(built: Path, batch: int, config: dict[str, Any]) -> Array:
    """Encode noise, of another kind for each of the batch."""
    shape = (batch, config["num_mel_bins"], 2 * config["max_source_positions"])
    features = np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)
    encoded: Array = open_session(built / ENCODER).run(None, {"input_features": features})[0]
    return encoded


def prompts(batch: int, config: dict[str, Any]) -> Array:
    """Four tokens each: the start, and three of the vocabulary's beginning."""
    ids = np.random.default_rng(1).integers(0, 200, (batch, PROMPT))
    ids[:, 0] = config["decoder_start_token_id"]
    return ids


def best(logits: Array) -> Array:
    """The greedy choice after the last token: [batch, 1]."""
    return logits[:, -1:].argmax(-1)


@pytest.mark.parametrize("length", [1, PROMPT], ids=["one token", "a prompt of four"])
@pytest.mark.parametrize("batch", [1, 3])
def test_token_for_token_what_two_separate_decoders_give(
    pair: Pair, batch: int, length: int
) -> None:
    """From the first step until the last position that the model has."""
    ids, encoded = pair.prompt[:batch, :length], pair.encoded[:batch]
    ours: Past | None = None
    theirs: Past | None = None
    chosen = []
    for _ in range(pair.positions - length + 1):
        expected, theirs = pair.separate.step(ids, encoded, theirs)
        logits, ours = pair.merged.step(ids, encoded, ours)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert (logits.argmax(-1) == expected.argmax(-1)).all()
        ids = best(expected)
        chosen.append(ids)
    assert ours is not None
    assert theirs is not None
    assert ours.keys() == theirs.keys()
    assert ours["0.decoder.key"].shape[2] == pair.positions
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-4)
    assert len(np.unique(chosen)) > 5, "the model says always the same: nothing was compared"


def test_beams_that_change_their_rows(pair: Pair) -> None:
    """A beam search moves, drops and doubles rows of the cache between two steps."""
    ids, encoded = pair.prompt, pair.encoded
    ours: Past | None = None
    theirs: Past | None = None
    for order in ([1, 2, 0], [0, 0, 2], [2, 1, 1], [1, 0, 2], [0, 0, 0], [0, 1, 2]):
        expected, theirs = pair.separate.step(ids, encoded, theirs)
        logits, ours = pair.merged.step(ids, encoded, ours)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        # Every row goes on with another of the likely tokens, as beams do.
        ranked = expected[:, -1].argsort(-1)[:, ::-1]
        ids = np.stack([ranked[row, place] for place, row in enumerate(order)])[:, None]
        encoded = encoded[order]
        ours = {name: value[order] for name, value in ours.items()}
        theirs = {name: value[order] for name, value in theirs.items()}


def test_hypotheses_share_the_cache_of_their_window(pair: Pair) -> None:
    """Two rows of each window, with its keys and values given once, are what they are alone."""
    _, past = pair.merged.step(pair.prompt, pair.encoded, None)
    rows = np.repeat(np.arange(3), 2)
    ids = np.arange(6)[:, None] + 20
    own = {name: value[rows] for name, value in past.items() if ".decoder." in name}
    cross = {name: value for name, value in past.items() if ".encoder." in name}
    repeated = {name: value[rows] for name, value in cross.items()}
    expected, _ = pair.merged.step(ids, pair.encoded[rows], own | repeated)
    shared, _ = pair.merged.step(ids, pair.encoded, own | cross)
    np.testing.assert_allclose(shared, expected, atol=1e-4)


def test_several_tokens_after_a_past(pair: Pair) -> None:
    """As optimum's first decoder gives them for the whole text at once."""
    more = np.roll(pair.prompt, 1, axis=1)[:, 1:]
    whole = np.concatenate([pair.prompt, more], 1)
    expected, _ = pair.separate.step(whole, pair.encoded, None)
    start, past = pair.merged.step(pair.prompt, pair.encoded, None)
    rest, _ = pair.merged.step(more, pair.encoded, past)
    np.testing.assert_allclose(np.concatenate([start, rest], 1), expected, atol=1e-4)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, tiny_whisper: Path) -> Path:
    """An artifact's graphs in int8."""
    return build_onnx(tiny_whisper, tmp_path_factory.mktemp("int8") / "built", exact.SCHEME)


@pytest.mark.parametrize("batch", [1, 3])
def test_in_int8_both_roads_give_the_same_tokens(
    int8: Path, tiny_whisper: Path, batch: int
) -> None:
    """The whole text at once without a past, against step by step with one.

    Activations are quantized with one scale a tensor. The whole text is one tensor, a step another,
    so the logits differ by rounding: by less than 1 % of their range here, and 2 % are allowed.
    """
    config = open_checkpoint(str(tiny_whisper)).config
    merged, encoded = Merged(int8 / DECODER, tiny_whisper), encode(int8, batch, config)
    ids, past = prompts(batch, config)[:, :1], None
    text, stepped = [], []
    for _ in range(config["max_target_positions"]):
        text.append(ids)
        logits, past = merged.step(ids, encoded, past)
        stepped.append(logits)
        ids = best(logits)
    at_once, _ = merged.step(np.concatenate(text, 1), encoded, None)
    one_by_one = np.concatenate(stepped, 1)
    allowed = 0.02 * np.ptp(one_by_one)
    np.testing.assert_allclose(at_once, one_by_one, atol=allowed)
    second, first = np.moveaxis(np.sort(one_by_one)[..., -2:], -1, 0)
    clear = first - second > 2 * allowed
    assert clear.mean() > 0.5
    assert (at_once.argmax(-1) == one_by_one.argmax(-1))[clear].all()


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_a_graph_passes_the_strict_checks(int8: Path, name: str) -> None:
    """Types and shapes of every value, found anew from the file and its weights."""
    onnx.checker.check_model(str(int8 / name), full_check=True)


def test_no_weight_is_stored_twice(int8: Path) -> None:
    seen: dict[str, str] = {}
    for name in (ENCODER, DECODER):
        for initializer in initializers(onnx.load(int8 / name).graph):
            data = numpy_helper.to_array(initializer).tobytes()
            digest = hashlib.sha256(data).hexdigest()
            assert len(data) <= 1024 or digest not in seen, f"{initializer.name}, {seen[digest]}"
            seen[digest] = initializer.name
    assert len(seen) > 50
    assert {path.name for path in int8.glob("*_data")} == {f"{ENCODER}_data", f"{DECODER}_data"}


def initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Those of a graph, and of the branches in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from initializers(attribute.g)


def test_names_and_their_order_are_optimums(int8: Path, tiny_whisper: Path, tmp_path: Path) -> None:
    theirs = export_with_optimum(tiny_whisper, tmp_path / "theirs")
    for name in (ENCODER, DECODER):
        expected, found = (onnx.load(folder / name).graph for folder in (theirs, int8))
        assert [value.name for value in found.input] == [value.name for value in expected.input]
        assert [value.name for value in found.output] == [value.name for value in expected.output]
        for values in ("input", "output"):
            pairs = zip(getattr(found, values), getattr(expected, values), strict=True)
            for ours, wanted in pairs:
                assert ours.type.tensor_type.elem_type == wanted.type.tensor_type.elem_type
