"""SpeechBrain's folders as checkpoints: what is read, what is refused, and that nothing is run."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.checkpoint.speechbrain import hyperparams
from exporter.checkpoint.speechbrain.tokens import sentencepiece as read_pieces
from exporter.checkpoint.speechbrain.tokens import text_encoder as read_labels
from exporter.cli import main
from exporter.errors import CheckpointError
from tests.support.tiny_speechbrain import (
    LABELS,
    PIECES,
    make_speechbrain,
    sentencepiece,
    text_encoder,
    write_hyperparams,
)

Edit = Callable[[str], str]


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder), allow_pickle=True)


def test_both_forms_are_read(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "one")
    make_speechbrain(tmp_path / "two", "vanilla", output_norm=False, do_normalize=False)
    config = opened(tmp_path / "one").config
    assert config["model_type"] == "speechbrain-wav2vec2-ctc"
    assert (config["vocab_size"], config["pad_token_id"]) == (len(PIECES), 0)
    assert (config["output_norm"], config["normalize_samples"]) == (True, True)
    assert config["head_widths"] == [24, 24, 24]
    config = opened(tmp_path / "two").config
    assert (config["output_norm"], config["normalize_samples"]) == (False, False)
    assert config["head_widths"] == [24, 24]


def test_an_artifact_is_given_files_of_its_own(tmp_path: Path) -> None:
    """None of SpeechBrain's; samples are normalised by the model alone."""
    make_speechbrain(tmp_path / "sb")
    with opened(tmp_path / "sb").gathered() as folder:
        files = sorted(path.name for path in folder.iterdir())
        held = {name: json.loads((folder / name).read_text()) for name in files}
    assert files == [
        *("config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"),
    ]
    assert held["preprocessor_config.json"]["do_normalize"] is False
    assert held["vocab.json"][" the"] == PIECES.index("\u2581the")
    assert held["tokenizer_config.json"]["pad_token"] == "<unk>"


def test_every_file_counts_in_the_checkpoints_hash(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    before = opened(tmp_path / "sb").sha256
    write_hyperparams(tmp_path / "sb", output_norm="False")
    assert opened(tmp_path / "sb").sha256 != before


def test_pickles_are_read_only_if_allowed(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    with pytest.raises(CheckpointError, match=r"wav2vec2\.ckpt is a pickle.*allow_pickle: true"):
        open_checkpoint(str(tmp_path / "sb"))


def replaced(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


def added(more: str) -> Edit:
    return lambda text: f"{text}\n{more}\n"


LOBES = "speechbrain.lobes.models.huggingface_transformers"
REFUSED: dict[str, tuple[Edit, str]] = {
    "an attention decoder": (
        replaced(
            "    encoder: !ref <encoder>", "    encoder: !ref <encoder>\n    decoder: !ref <enc>"
        ),
        r"modules\.decoder: a model with an attention decoder \(EncoderDecoderASR\)",
    ),
    "another encoder": (
        replaced(f"!new:{LOBES}.wav2vec2.Wav2Vec2", f"!new:{LOBES}.wavlm.WavLM"),
        "WavLM is not supported as the encoder",
    ),
    "features and a CRDNN": (
        replaced("    wav2vec2: !ref <wav2vec2>\n    enc:", "    features: !new:a.Fbank\n    enc:"),
        "Fbank is not supported as the encoder",
    ),
    "another head network": (
        replaced("enc: !new:speechbrain.nnet.containers.Sequential", "enc: !new:a.b.LSTM"),
        "LSTM is not supported as the head network",
    ),
    "another activation": (
        replaced("activation2: !new:torch.nn.LeakyReLU", "activation2: !new:torch.nn.GELU"),
        r"activation2: GELU is not supported as an activation \(supported: LeakyReLU\)",
    ),
    "another slope": (
        replaced(
            "activation2: !new:torch.nn.LeakyReLU",
            "activation2: !new:torch.nn.LeakyReLU\n        negative_slope: 0.2",
        ),
        r"activation2\.negative_slope: LeakyReLU with this argument is not supported",
    ),
    "a norm with an argument": (
        replaced(
            "bn2: !name:speechbrain.nnet.normalization.BatchNorm1d",
            "bn2: !name:speechbrain.nnet.normalization.BatchNorm1d\n        eps: 0.1",
        ),
        r"bn2\.eps: BatchNorm1d with this argument is not supported",
    ),
    "a layer without a bias": (
        replaced("bias: True", "bias: False"),
        r"linear1\.bias: a linear layer without a bias is not supported",
    ),
    "outputs of all layers": (
        replaced("    freeze: !ref", "    output_all_hiddens: True\n    freeze: !ref"),
        "only the last layer's outputs are supported",
    ),
    "an argument that nobody knows": (
        replaced("    freeze: !ref", "    surprise: 1\n    freeze: !ref"),
        r"surprise: Wav2Vec2 with this argument is not supported",
    ),
    "no output_norm": (replaced("    output_norm: True\n", ""), "no `output_norm`, whose default"),
    "another step": (
        replaced("    log_softmax: !ref <log_softmax>", "    log_softmax: !ref <enc>"),
        "Sequential is not supported as the last step",
    ),
    "weights of another module": (
        replaced("        wav2vec2: !ref <wav2vec2>", "        wav2vec2: !ref <enc>"),
        r"loadables\.wav2vec2: these weights are not those of `modules\.encoder`",
    ),
    "one more file": (
        replaced("        asr: !ref", "        lm: !ref <enc>\n        asr: !ref"),
        r"loadables\.lm: not supported \(supported: wav2vec2, asr, tokenizer\)",
    ),
    "files of other names": (
        replaced("    loadables:", "    paths:\n        asr: other.ckpt\n    loadables:"),
        r"paths\.asr: asr\.ckpt is read, and no other file",
    ),
    "hooks": (
        replaced("    loadables:", "    load_hooks: !ref <enc>\n    loadables:"),
        "load_hooks: Pretrainer with this argument is not supported",
    ),
    "a computed reference": (
        replaced("n_neurons: !ref <output_neurons>", "n_neurons: !ref <output_neurons> * 2"),
        "`!ref <output_neurons> \\* 2` names no key of this file, and is not computed",
    ),
    "references in a circle": (
        replaced("output_neurons: 15", "output_neurons: !ref <output_neurons>"),
        "references that lead to one another",
    ),
    "a number that is text": (
        replaced("output_neurons: 15", "output_neurons: many"),
        "a whole number is expected, not 'many'",
    ),
    "another blank": (replaced("blank_index: 0", "blank_index: 400"), "the blank is 400, where"),
    "another rate": (replaced("sample_rate: 16000", "sample_rate: 8000"), "sampling_rate is 16000"),
    "no modules": (replaced("modules:\n", "other:\n"), "no `modules`, which SpeechBrain's"),
    "no tokenizer": (
        replaced("tokenizer: !new:sentencepiece.SentencePieceProcessor", ""),
        "no `tokenizer`, which SpeechBrain's EncoderASR has",
    ),
    "another tokenizer": (
        replaced("!new:sentencepiece.SentencePieceProcessor", "!new:transformers.AutoTokenizer"),
        "AutoTokenizer is not supported as the tokenizer",
    ),
    "a command": (
        added("harmless: !apply:os.system [touch ran]"),
        "`!apply:os.system` would run code, open files or is unknown: this is never done",
    ),
    "a file to include": (added("more: !include:other.yaml"), "`!include:other.yaml` would run"),
    "Python's own tags": (
        added("x: !!python/object/apply:os.system [touch ran]"),
        "python/object/apply:os.system` would run code",
    ),
    "a tag of nobody": (
        added("x: !secret 1"),
        "`!secret` would run code, open files or is unknown",
    ),
    "aliases": (added("a: &a [1]\nb: [*a, *a]"), r"anchors \(&\) and aliases \(\*\) are not read"),
    "a key twice": (added("blank_index: 1"), "the key blank_index is there twice"),
    "a key that is a list": (added("[1, 2]: 3"), "a key is no text"),
    "depth": (added("x: " + "[" * 40 + "]" * 40), "nested more than 20 levels deep"),
    "endless depth": (added("x: " + "[" * 5000), "nested too deep"),
    "no YAML": (lambda text: "{", "while parsing|expected|did not find"),
    "no mapping": (lambda text: "- 1", "a mapping is expected"),
    "binary": (lambda text: "a\0b", "not readable as YAML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_unknown_is_refused_by_name(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sb"
    make_speechbrain(folder)
    monkeypatch.chdir(tmp_path)
    edit, told = REFUSED[case]
    path = folder / "hyperparams.yaml"
    path.write_text(edit(path.read_text()))
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match=told) as caught:
        opened(folder)
    assert time.monotonic() - begun < 20
    assert 1 <= len(str(caught.value).splitlines()) <= 3
    assert str(folder) in str(caught.value)
    assert not Path("ran").exists()


def test_many_aliases_take_no_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = tmp_path / "hyperparams.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(CheckpointError, match="anchors"):
        hyperparams.read(path)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hyperparams.yaml"
    path.write_text("a: 1\n" * 100_000)
    with pytest.raises(CheckpointError, match="bytes"):
        hyperparams.read(path)


def test_what_only_training_uses_does_not_matter(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    path = tmp_path / "sb" / "hyperparams.yaml"
    more = "\n".join(
        [
            "seed: 1234",
            "__set_seed: !apply:torch.manual_seed [!ref <seed>]",
            "opt_class: !name:torch.optim.Adadelta\n    lr: 1.0",
            "save_folder: !ref <seed>/save",
            "range: !tuple (1, 2)",
        ]
    )
    path.write_text(
        path.read_text().replace(
            "    loadables:",
            "    collect_in: !ref <save_folder>\n"
            "    paths:\n        asr: !ref <save_folder>/asr.ckpt\n    loadables:",
        )
        + more
    )
    assert opened(tmp_path / "sb").config["output_norm"] is True


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_the_encoders_configs_are_never_taken_from_elsewhere(name: str, tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    (tmp_path / "sb" / name).unlink()
    with pytest.raises(CheckpointError, match=rf"missing {name}.*\n.*hf download ORG/NAME {name}"):
        opened(tmp_path / "sb")


@pytest.mark.parametrize("name", ["asr.ckpt", "wav2vec2.ckpt", "tokenizer.ckpt"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    (tmp_path / "sb" / name).unlink()
    with pytest.raises(CheckpointError, match=f"missing {name}, which"):
        opened(tmp_path / "sb")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    (tmp_path / "sb" / "tokenizer.ckpt").rename(tmp_path / "elsewhere")
    (tmp_path / "sb" / "tokenizer.ckpt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a link that leads out of the checkpoint"):
        opened(tmp_path / "sb")


def test_the_config_must_be_the_encoders(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    path = tmp_path / "sb" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "hubert"}))
    with pytest.raises(
        CheckpointError, match="model_type 'hubert': a SpeechBrain model's is wav2vec2"
    ):
        opened(tmp_path / "sb")


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["asr.ckpt", "wav2vec2.ckpt"])
def test_a_pickle_with_code_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_speechbrain(tmp_path / "sb")
    monkeypatch.chdir(tmp_path)
    torch.save({"model.x": Code()}, tmp_path / "sb" / name)
    with pytest.raises(CheckpointError, match="refused, because it holds more than tensors"):
        opened(tmp_path / "sb")
    assert not Path("ran").exists()


def changed_state(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(folder / name, weights_only=True)
    change(state)
    torch.save(state, folder / name)


def test_a_head_of_other_layers_is_refused(tmp_path: Path) -> None:
    """Also one with a batch norm that the file does not name, which would be left out."""
    make_speechbrain(tmp_path / "one")
    changed_state(tmp_path / "one", "asr.ckpt", lambda state: state.pop("0.bn2.norm.running_var"))
    with pytest.raises(CheckpointError, match=r"0\.bn2\.norm\.running_var is missing"):
        opened(tmp_path / "one")
    make_speechbrain(tmp_path / "two", "vanilla")
    extra = {"0.bn.norm.weight": torch.ones(24)}
    changed_state(tmp_path / "two", "asr.ckpt", lambda state: state.update(extra))
    with pytest.raises(CheckpointError, match=r"0\.bn\.norm\.weight is there too"):
        opened(tmp_path / "two")


def test_an_encoder_of_other_names_is_refused(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    changed_state(tmp_path / "sb", "wav2vec2.ckpt", lambda state: state.update(other=torch.ones(1)))
    with pytest.raises(CheckpointError, match="the tensor other is not SpeechBrain's"):
        opened(tmp_path / "sb")


@pytest.mark.parametrize(
    ("form", "content", "told"),
    [
        ("sequential", sentencepiece(PIECES[:-1]), "14 tokens up to number 13"),
        ("sequential", sentencepiece([*PIECES, "x"]), "has 15 outputs: it is another model's"),
        ("vanilla", text_encoder(LABELS[:-1]), "15 tokens up to number 14"),
        ("vanilla", text_encoder([*LABELS, "z"]), "has 16 outputs: it is another model's"),
    ],
)
def test_a_tokenizer_of_another_size_is_refused(
    form: str, content: bytes, told: str, tmp_path: Path
) -> None:
    make_speechbrain(tmp_path / "sb", form)
    (tmp_path / "sb" / "tokenizer.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        opened(tmp_path / "sb")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "0 tokens"),
        (b"not a model", "no SentencePiece model"),
        (b"\x0a\xff\xff\xff\xff\x0f", "no SentencePiece model"),
        (sentencepiece(["a", "b", "c", "a"]), "two tokens have one text"),
        (b"\x0a\x0a\x0a\x06<0x41>\x18\x06", "pieces of single bytes are not supported"),
        (sentencepiece(PIECES) + b"\x2a\x03\x12\x01x", "it replaces characters when it decodes"),
    ],
)
def test_a_damaged_sentencepiece_model_is_refused(
    content: bytes, told: str, tmp_path: Path
) -> None:
    make_speechbrain(tmp_path / "sb")
    (tmp_path / "sb" / "tokenizer.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        opened(tmp_path / "sb")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe", "no text"),
        (b"hello\n", "no labels of SpeechBrain's CTCTextEncoder"),
        (b"'a' => b\n", "'b' is no index of a label"),
        (b"'a' => 0\n'a' => 1\n", "two tokens have one text"),
        (b"'a' => 0\n'b' => 0\n", "two tokens have one text, or one number"),
        (b"('a', 'b') => 0\n", "is no text"),
        (b"__import__('os') => 0\n", "is no label"),
        (b"(" * 400 + b" => 0\n", "is no label"),
        (b"(" * 4000 + b" => 0\n", "no labels of SpeechBrain's"),
    ],
)
def test_damaged_labels_are_refused(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        read_labels(path)


def test_what_is_never_written_is_known(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(sentencepiece(PIECES))
    (tmp_path / "b").write_bytes(text_encoder(LABELS))
    assert read_pieces(tmp_path / "a").silent == ("<unk>", "<s>", "</s>")
    assert set(read_labels(tmp_path / "b").silent) == {"<blank>", "<bos>", "<eos>"}


def test_the_command_line_says_it_in_three_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_speechbrain(tmp_path / "sb")
    path = tmp_path / "sb" / "hyperparams.yaml"
    path.write_text(path.read_text() + "x: !apply:os.system [true]\n")
    assert main(["inspect", str(tmp_path / "sb"), "--allow-pickle"]) == 3
    told = capfd.readouterr().err.strip().splitlines()
    assert 1 <= len(told) <= 3
    assert "x: `!apply:os.system` would run code" in told[0]


def mutated(text: str, random: Random) -> str:
    """The text with a piece cut out, put in or moved."""
    for _ in range(random.randint(1, 4)):
        begin = random.randrange(len(text) + 1)
        end = min(len(text), begin + random.randint(0, 30))
        text = text[:begin] + random.choice(FRAGMENTS) + text[end:]
        lines = text.split("\n")
        one, two = (random.randrange(len(lines)) for _ in range(2))
        lines[one], lines[two] = lines[two], lines[one]
        text = "\n".join(lines)
    return text


FRAGMENTS = (
    *("", "!ref <enc>", "!ref <", "!new:a.b", "!apply:x", "!new: {}", "!!map", "&a ", "*a", "<<: "),
    *("[", "]", "{", "}", ":", "- ", "? ", "\n", "    ", "\t", "'", '"', "|", "null", "true", "~"),
    *("%YAML 1.1", "---", "...", "1e9", "9" * 30, "\x85", "\u202e", "{}"),
)


@pytest.mark.parametrize("form", ["sequential", "vanilla"])
def test_no_mutation_is_a_crash(form: str, tmp_path: Path) -> None:
    """It is read, or refused in a few printable lines."""
    path, random = write_hyperparams(tmp_path, form), Random(form)
    text, told = path.read_text(), []
    for _ in range(300):
        path.write_text(mutated(text, random))
        try:
            hyperparams.read(path)
        except CheckpointError as error:
            told.append(str(error).splitlines())
    assert all(len(lines) <= 3 and "".join(lines).isprintable() for lines in told)
    assert len(told) > 100


@pytest.mark.parametrize(
    ("content", "read"), [(sentencepiece(PIECES), read_pieces), (text_encoder(LABELS), read_labels)]
)
def test_no_damage_of_a_tokenizer_is_a_crash(
    content: bytes, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    path, random = tmp_path / "tokenizer.ckpt", Random(0)
    told: list[str] = []
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except CheckpointError as error:
            told.append(str(error))
    assert all(each.isprintable() for each in told)
    assert len(told) > 100
