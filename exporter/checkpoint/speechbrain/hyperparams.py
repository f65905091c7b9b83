"""What `hyperparams.yaml` says about the computation of a SpeechBrain `EncoderASR`.

Read from what that class uses: `modules.encoder`, `pretrainer`, `decoding_function` and
`tokenizer`. Keys that none of these leads to are for training or unused, and do not matter.
Source: https://github.com/speechbrain/speechbrain/blob/develop/speechbrain/inference/ASR.py
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.checkpoint.speechbrain import inert_yaml
from exporter.checkpoint.speechbrain.inert_yaml import Entry

SENTENCEPIECE, TEXT_ENCODER = "SentencePieceProcessor", "CTCTextEncoder"
_RATE = 16_000  # of SpeechBrain's AudioNormalizer, where a file says nothing
_ENCODERS = ("Wav2Vec2", "HuggingFaceWav2Vec2")
_CHAINS = ("LengthsCapableSequential", "Sequential")
_SEQUENTIAL, _VANILLA, _LINEAR = "Sequential", "VanillaNN", "Linear"
_NORM, _ACTIVATION, _DROPOUT = "BatchNorm1d", "LeakyReLU", "Dropout"
_DECODERS = (
    *("ctc_greedy_decode", "CTCBeamSearcher", "CTCPrefixBeamSearcher"),
    "TorchAudioCTCPrefixBeamSearcher",
)
_LOADED = ("wav2vec2", "asr", "tokenizer")
_MOST_LAYERS = 32


@dataclass(frozen=True)
class Layer:
    """A linear layer of the head network.

    Attributes:
        linear: The name of its tensors in the checkpoint.
        norm: The name of the tensors of the batch norm behind it, if there is one.
        width: The number of its outputs.
    """

    linear: str
    norm: str | None
    width: int


@dataclass(frozen=True)
class Hyperparams:
    """A model: a wav2vec 2.0 encoder, a head network of linear layers, and a CTC projection.

    Attributes:
        output_norm: Whether the encoder's outputs are normalised over frames and channels.
        layers: The head network, each layer with a LeakyReLU behind it.
        outputs: The number of tokens.
        blank: The token that is the blank.
        tokenizer: The class of the tokenizer.
        sampling_rate: Samples a second.
    """

    output_norm: bool
    layers: tuple[Layer, ...]
    outputs: int
    blank: int
    tokenizer: str
    sampling_rate: int


def read(path: Path) -> Hyperparams:
    """Read a `hyperparams.yaml`.

    Args:
        path: The file.

    Returns:
        What it says about the computation.

    Raises:
        CheckpointError: It describes another kind of model, or something in it is not known.
    """
    whole = inert_yaml.read(path)
    top = whole.entries()
    encoder, network, projection = _chain(_required(whole, top, "modules"))
    tokenizer = _required(whole, top, "tokenizer")
    pretrainer = _required(whole, top, "pretrainer")
    _require_loaded(pretrainer, encoder, [network, projection], tokenizer)
    outputs = _outputs(projection)
    return Hyperparams(
        output_norm=_output_norm(encoder),
        layers=tuple(_layers(network)),
        outputs=outputs,
        blank=_blank(whole, top, outputs),
        tokenizer=_tokenizer(tokenizer),
        sampling_rate=_sampling_rate(top),
    )


def _required(outer: Entry, entries: Mapping[str, Entry], key: str) -> Entry:
    if key not in entries:
        msg = f"no `{key}`, which SpeechBrain's EncoderASR has"
        outer.refuse(msg)
    return entries[key].followed()


def _kind(entry: Entry, known: Sequence[str], role: str) -> str:
    """Return what a value is made of, if that is known."""
    if entry.made not in known:
        found = entry.made or "what is here"
        entry.refuse(f"{found} is not supported as {role} (supported: {', '.join(known)})")
    return entry.made


def _chain(modules: Entry) -> tuple[Entry, Entry, Entry]:
    """Return the encoder, the head network and the projection."""
    entries = modules.entries()
    if "decoder" in entries:
        entries["decoder"].refuse(
            "a model with an attention decoder (EncoderDecoderASR) is not supported; "
            "EncoderASR, a CTC model, is"
        )
    chain = _required(modules, entries, "encoder")
    _kind(chain, _CHAINS, "the model")
    parts = [part.followed() for key, part in chain.entries().items() if key != "input_shape"]
    roles = (
        (_ENCODERS, "the encoder"),
        ((_SEQUENTIAL, _VANILLA), "the head network"),
        ((_LINEAR,), "the CTC projection"),
        (("Softmax",), "the last step"),
    )
    for part, (known, role) in zip(parts, roles, strict=False):
        _kind(part, known, role)
    if not 3 <= len(parts) <= len(roles):
        msg = f"{len(parts)} steps, where an encoder, a head network and a projection are expected"
        chain.refuse(msg)
    for last in parts[3:]:
        last.arguments((), unused=("apply_log",))  # the likeliest token is the same
    return parts[0], parts[1], parts[2]


def _require_loaded(
    pretrainer: Entry, encoder: Entry, head: Sequence[Entry], tokenizer: Entry
) -> None:
    """Require that the files hold the modules that compute, under the names that are read."""
    given = pretrainer.arguments(("loadables", "paths"), unused=("collect_in",))
    loaded = _required(pretrainer, given, "loadables")
    entries = loaded.entries()
    for name, entry in entries.items():
        if name not in _LOADED:
            entry.refuse(f"not supported (supported: {', '.join(_LOADED)})")
    own, asr, text = (_required(loaded, entries, name) for name in _LOADED)
    if own.node is not encoder.node:
        own.refuse("these weights are not those of `modules.encoder`")
    _kind(asr, ("ModuleList",), "the head")
    parts = [part.followed().node for modules in asr.items() for part in modules.items()]
    if parts != [part.node for part in head]:
        asr.refuse("the head network and the CTC projection are expected, in this order")
    if text.node is not tokenizer.node:
        text.refuse("this is not the tokenizer of the key `tokenizer`")
    for name, path in given["paths"].entries().items() if "paths" in given else ():
        if str(path.node.value).rpartition("/")[2] != f"{name}.ckpt":
            path.refuse(f"{name}.ckpt is read, and no other file")


def _output_norm(encoder: Entry) -> bool:
    """Return whether outputs are normalised; releases differ in what they do by default."""
    unused = (
        *("source", "save_path", "cache_dir", "freeze", "freeze_feature_extractor", "pretrain"),
        "apply_spec_augment",
    )
    given = encoder.arguments(("output_norm", "output_all_hiddens"), unused)
    if "output_all_hiddens" in given and given["output_all_hiddens"].boolean():
        given["output_all_hiddens"].refuse("only the last layer's outputs are supported")
    if "output_norm" not in given:
        msg = "no `output_norm`, whose default differs between releases of SpeechBrain: write it"
        encoder.refuse(msg)
    return given["output_norm"].boolean()


def _layers(network: Entry) -> Iterator[Layer]:
    """Yield the layers of the head network."""
    names = _vanilla(network) if network.made == _VANILLA else _sequential(network)
    count = 0
    for layer in names:
        count += 1
        if count > _MOST_LAYERS:
            network.refuse(f"more than {_MOST_LAYERS} linear layers")
        yield layer
    if not count:
        network.refuse("no linear layer")


def _vanilla(network: Entry) -> Iterator[Layer]:
    given = network.arguments(("activation", "dnn_blocks", "dnn_neurons"), ("input_shape",))
    if "activation" in given:
        _activation(given["activation"])
    blocks = given["dnn_blocks"].number() if "dnn_blocks" in given else 2
    width = given["dnn_neurons"].number() if "dnn_neurons" in given else 512
    for block in range(min(blocks, _MOST_LAYERS + 1)):
        yield Layer("linear" if block == 0 else f"linear_{block - 1}", None, width)


def _sequential(network: Entry) -> Iterator[Layer]:
    """Yield layers of the form linear, batch norm or none, activation, dropout or none."""
    steps = [(k, e.followed()) for k, e in network.entries().items() if k != "input_shape"]
    steps = [(key, step) for key, step in steps if not _is_dropout(step)]
    while steps:
        name, linear = steps.pop(0)
        _kind(linear, (_LINEAR,), "a layer of the head network")
        width, norm = _outputs(linear), None
        if steps and steps[0][1].made == _NORM:
            norm, step = steps.pop(0)
            step.arguments((), unused=("input_size", "input_shape", "momentum"))
        if not steps:
            linear.refuse("no activation behind it, where a LeakyReLU is expected")
        _activation(steps.pop(0)[1])
        yield Layer(name, norm, width)


def _is_dropout(step: Entry) -> bool:
    return step.made.startswith(_DROPOUT)


def _activation(activation: Entry) -> None:
    _kind(activation, (_ACTIVATION,), "an activation")
    activation.arguments((), unused=("inplace",))


def _outputs(linear: Entry) -> int:
    """Return the number of a linear layer's outputs; it must have a bias, as by default."""
    given = linear.arguments(("n_neurons", "bias"), unused=("input_size", "input_shape"))
    if "bias" in given and not given["bias"].boolean():
        given["bias"].refuse("a linear layer without a bias is not supported")
    return _required(linear, given, "n_neurons").number()


def _blank(whole: Entry, top: Mapping[str, Entry], outputs: int) -> int:
    """Return the blank, on which the decoding function and the file must agree."""
    decoding = _required(whole, top, "decoding_function")
    _kind(decoding, _DECODERS, "the decoding, which is greedy here,")
    given = decoding.entries()
    found = [given[key].followed() for key in ("blank_id", "blank_index") if key in given]
    found += [top["blank_index"].followed()] if "blank_index" in top else []
    if not found:
        whole.refuse("no `blank_index`")
    blanks = {each.number() for each in found}
    if len(blanks) > 1 or max(blanks) >= outputs:
        told = " and ".join(map(str, sorted(blanks)))
        found[0].refuse(f"the blank is {told}, where one of {outputs} tokens is expected")
    return blanks.pop()


def _tokenizer(tokenizer: Entry) -> str:
    kind = _kind(tokenizer, (SENTENCEPIECE, TEXT_ENCODER), "the tokenizer")
    tokenizer.arguments(())
    return kind


def _sampling_rate(top: Mapping[str, Entry]) -> int:
    rates = [top["sample_rate"].followed()] if "sample_rate" in top else []
    if "audio_normalizer" in top:
        normalizer = top["audio_normalizer"].followed()
        _kind(normalizer, ("AudioNormalizer",), "the preparation of audio")
        rates += normalizer.arguments(("sample_rate",)).values()
    found = {rate.number() for rate in rates} or {_RATE}
    if len(found) > 1:
        rates[0].refuse("two sampling rates")
    return found.pop()
