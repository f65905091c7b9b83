"""Whatever is typed, the command line says what is wrong: it never ends as a bug."""

import os
import random
import shutil
import signal
from pathlib import Path

import click
import pytest
from huggingface_hub import constants

from exporter.cli import cli, main
from exporter.errors import EXIT_CODES

CASES = 100
ODD = (
    *("", " ", ".", "..", "/", "-", "--", "~", "*", "\\", "@", "a@b", "ORG/NAME", "org/name@main"),
    *("x/y/z", "../..", "/dev/null", "/proc/self/mem", "one\x01byte", "e\u0301", "\u202ename"),
    *("\U0001f600", "gate=1", "=", "a=b=c", "decoding.num_beams=0"),
    *("a" * 300, "a/" * 200, "\udcff.wav", "out[v1]", "{}", "null", "true", "1e999", "NaN", "-1"),
    *("0", "1", "2,3", "10000000000", "targets.0.name=x"),
    *("http://[::1", "https://example.org/x", "file:///etc/passwd", "aoti", "onnx-int8", "en"),
    *("a.wav", "text.wav", "folder", "folder.wav", "bad.yaml", "recipe.yaml", "checkpoint"),
    *("built", "built/one", "built/none", "clips", "clips.jsonl"),
    *("loop", "dangling", "unreadable", "pipe"),
)  # fmt: skip


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with things that are not what they seem."""
    here = tmp_path_factory.mktemp("odd")
    for folder in ("folder", "folder.wav", "checkpoint", "built/one", "built/none", "clips"):
        (here / folder).mkdir(parents=True)
    (here / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    (here / "text.wav").write_text("no audio")
    (here / "bad.yaml").write_text("name: [")
    (here / "recipe.yaml").write_text(
        "name: x\ncheckpoint: checkpoint\ntargets: [{kind: onnx-int8}]\n"
    )
    (here / "checkpoint/config.json").write_text('{"model_type": "whisper"}')
    (here / "built/one/manifest.json").write_text("{}")
    (here / "clips.jsonl").write_text('{"audio": 1}\n[')
    (here / "loop").symlink_to("loop")
    (here / "dangling").symlink_to("nowhere")
    (here / "unreadable").write_text("x")
    (here / "unreadable").chmod(0)
    return here


@pytest.fixture
def _here(odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of that folder; nothing is asked of a Hub, and no signal handler stays."""
    shutil.copytree(
        odd_folder, tmp_path / "odd", symlinks=True, ignore=shutil.ignore_patterns("unreadable")
    )
    os.mkfifo(tmp_path / "odd" / "pipe")
    monkeypatch.chdir(tmp_path / "odd")
    # The library reads its variable once, when it is imported: then it would hold for other tests.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def typed(number: int) -> list[str]:
    """One command line: a command, some of its options, and odd values."""
    chance = random.Random(number)
    name = chance.choice(sorted(cli.commands))
    command = cli.commands[name]
    words = [name]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and chance.random() < 0.06:
            flag = chance.choice([*parameter.opts, *parameter.secondary_opts])
            words += [flag] if parameter.is_flag else [flag, chance.choice(ODD)]
        elif isinstance(parameter, click.Argument) and chance.random() < 0.95:
            words += [chance.choice(ODD) for _ in range(chance.choice([1, 1, 1, 2]))]
    return words


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("start", range(0, CASES, 50))
def test_no_command_line_is_a_bug(start: int, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(start, start + 50):
        words = typed(number)
        code = main(words)
        out, err = capfd.readouterr()
        assert code in EXIT_CODES, words
        assert code != 1, (words, err)
        assert "Traceback" not in err, words
        if code not in (0, 4):
            assert "error: " in err or "Usage" in err, (words, out, err)
