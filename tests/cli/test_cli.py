"""The command line: help, exit codes, pure JSON, quiet libraries, and a fast start."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter import errors
from exporter.artifact.manifest import BuildFigures, Manifest, Origin, RecipeStamp, Requirements
from exporter.cli import cli, main
from exporter.cli.output import facts

HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "optimum", "safetensors", "matplotlib")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder, and leaves SIGTERM as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return tmp_path


@pytest.fixture
def artifact(here: Path) -> Path:
    """A folder with a manifest: enough to be listed and inspected, not to be loaded."""
    folder = here / "artifacts" / "speech" / "small"
    folder.mkdir(parents=True)
    manifest = Manifest(
        name="small",
        kind="onnx-int8",
        family="whisper",
        options={"per_channel": True},
        recipe=RecipeStamp(name="speech", sha256="0" * 64, source="recipes/speech.yaml"),
        checkpoint=Origin(
            source="org/model", revision=None, sha256="1" * 64, size_bytes=4000, parameters=1000
        ),
        needs=Requirements(),
        versions={},
        machine={},
        build=BuildFigures(seconds=1.0, peak_rss_bytes=2),
        build_key="2" * 64,
    )
    (folder / "manifest.json").write_bytes(manifest.canonical())
    return folder


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("command", ["", *sorted(cli.commands)])
def test_help(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*filter(None, [command]), "--help"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"Usage: exporter {command}".rstrip())
    assert err == ""


def test_the_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("exporter, version ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["zork"], ["error: No such command 'zork'", "  See `exporter --help`."]),
        (["build"], ["error: Missing argument 'RECIPES...'.", "  See `exporter build --help`."]),
        (["build", "x", "--z"], ["error: No such option", "  See `exporter build --help`."]),
        (["validate", "x", "--clips=0"], ["error: Invalid value for '--clips'", "  See `exporter"]),
        (["build", "x"], ["error: x: cannot read the recipe: No such file or directory"]),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], told: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    for line, start in zip(err.splitlines(), told, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["zork", "--json"], 2, "No such command 'zork'."),
        (["build", "--json"], 2, "Missing argument 'RECIPES...'."),
        (["build", "x", "--json", "--z"], 2, "No such option '--z'."),
        (["build", "x", "--json"], 2, "x: cannot read the recipe: No such file or directory"),
        (["verify", "--json", "absent"], 5, "absent"),
        (["machine", "--threads", "2", "--json"], 2, "--threads goes with --measure"),
    ],
)
def test_an_error_is_json_too(
    arguments: list[str], code: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert document["schema_version"] == 1
    assert document["error"]["exit_code"] == code
    assert told in document["error"]["message"]
    assert err.startswith(f"error: {document['error']['message'].splitlines()[0]}")


def test_the_message_of_an_error_is_exact_and_harmless(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(facts, "of_folder", raising(errors.GateError("a: failed\x1b[2J")))
    assert main(["list", "--json"]) == 4
    out, _ = capfd.readouterr()
    assert "\\u001b[2J" in out
    assert json.loads(out)["error"] == {"message": "a: failed\x1b[2J", "exit_code": 4}


def test_no_arguments_show_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: exporter" in capfd.readouterr().err


def test_the_help_lists_the_exit_codes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capfd.readouterr().out.partition("Exit codes:")[2].splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines if line)
    assert listed == {str(code): text for code, text in errors.EXIT_CODES.items()}


def test_a_bad_recipe_is_told_without_loading_torch(here: Path) -> None:
    (here / "recipe.yaml").write_text("name: x\ncheckpoint: y\ntargets: [{kind: aoti}]\ngat: 1\n")
    code, loaded, err = _fresh(["build", "recipe.yaml"])
    assert (code, loaded) == (2, [])
    assert err == "error: recipe.yaml:4:1: gat: unknown key; did you mean `gate`?\n"


expected_errors = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.ExporterError)
]


@pytest.mark.parametrize("kind", expected_errors, ids=lambda kind: kind.__name__)
def test_each_error_has_its_exit_code(
    kind: type[errors.ExporterError],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(facts, "of_path", raising(kind("what: where\nwhat to do")))
    assert main(["inspect", "x"]) == kind.exit_code
    assert kind.exit_code in errors.EXIT_CODES
    assert capfd.readouterr() == ("", "error: what: where\n  what to do\n")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (MemoryError(), 8, "out of disk or memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 8, "No space left on device"),
        (RuntimeError("write failed: No space left on device"), 8, "out of disk or memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 8, "out of disk or memory"),
        (OSError(errno.EMFILE, "Too many open files", "x"), 8, "Too many open files"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), 8, "temporary"),
        (RuntimeError("zip: write callback failed\n\nin a.cpp:360"), 8, "write callback failed"),
        (RuntimeError("can't start new thread"), 8, "can't start new thread"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 3, "x: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("odd"), 1, "error: ValueError: odd\n  This is a bug."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_errors(
    error: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(facts, "of_path", raising(error))
    assert main(["inspect", "x"]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert told in err
    assert len(err.strip().splitlines()) <= 3
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", expected_errors, ids=lambda kind: kind.__name__)
def test_a_full_disk_is_told_whatever_met_it(
    kind: type[errors.ExporterError],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    error = kind("x cannot be read (No space left on device)")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(facts, "of_path", raising(error))
    assert main(["inspect", "x"]) == errors.ResourceError.exit_code
    assert capfd.readouterr().err == f"error: {error}\n"


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(facts, "of_path", raising(ValueError("odd")))
    assert main(["--debug", "inspect", "x"]) == 1
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("debug", [False, True])
def test_json_stays_pure_whatever_libraries_print(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(_here: Path) -> dict[str, list[Any]]:
        os.write(1, b"native noise\n")
        os.write(2, b"native noise\n")
        subprocess.run([sys.executable, "-c", "print('noise of a child')"], check=True)
        return {"recipes": []}

    monkeypatch.setattr(facts, "of_folder", noisy)
    assert main([*["--debug"][: int(debug)], "list", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"schema_version": 1, "recipes": []}
    assert ("noise" in err) == debug


def test_our_own_warnings_are_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    def warning(_here: Path) -> dict[str, list[Any]]:
        logging.getLogger("exporter.somewhere").warning("two cores only")
        logging.getLogger("somebody.else").warning("chatter")
        return {}

    monkeypatch.setattr(facts, "of_folder", warning)
    assert main(["list"]) == 0
    assert capfd.readouterr().err == "warning: two cores only\n"


def test_list_and_inspect_tell_what_is_there(
    here: Path, artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "recipes/more").mkdir(parents=True)
    text = "name: x\ncheckpoint: y\ntargets: [{kind: aoti}]\n"
    (here / "recipes/good.yaml").write_text(text)
    (here / "recipes/more/below.yaml").write_text(text)
    (here / "recipes/zbad.yaml").write_text("name: x\n")
    assert main(["list", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert listed["targets"] == ["onnx-int8", "onnx-fp16", "torch-int8", "aoti"]
    assert "whisper" in listed["families"]
    assert listed["recipes"][0]["checkpoint"] == "y"
    assert listed["recipes"][1]["state"].startswith("unusable: recipes/zbad.yaml:1:1: checkpoint")
    assert listed["recipes"][2]["path"] == "recipes/more/below.yaml"
    assert listed["artifacts"][0]["path"] == "artifacts/speech/small"
    assert listed["artifacts"][0]["state"] == "not validated"

    assert main(["list"]) == 0
    assert "  artifacts/speech/small: 0 B, not validated\n" in capfd.readouterr().out

    assert main(["inspect", str(artifact), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["manifest"]["kind"] == "onnx-int8"
    assert facts["report"] is None
    assert main(["inspect", str(artifact)]) == 0
    told = capfd.readouterr().out
    assert "built from: org/model (1 thousand parameters, 4 kB, sha256 111111111111)\n" in told
    assert "report: none: not validated\n" in told
    names = [line.partition(": ")[0] for line in told.splitlines()]
    assert all(re.fullmatch(r"[a-z ]+|files:", name) for name in names), names


def test_strings_of_a_manifest_forge_no_line(
    artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = artifact / "manifest.json"
    forged = r"org\nreport: passed\u001b[2J\u202e"
    path.write_text(path.read_text().replace("org/model", forged))
    for command in (["inspect", str(artifact)], ["list"]):
        main(command)
        out, err = capfd.readouterr()
        assert not any(line.strip().startswith("report: passed") for line in out.splitlines())
        assert not {"\x1b", "\u202e"} & set(out + err)


def test_an_edited_manifest_is_5(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = artifact / "manifest.json"
    path.write_text(path.read_text().replace("org/model", "org/other") + "\n")
    assert main(["inspect", str(artifact)]) == 5
    assert capfd.readouterr().err.startswith("error: ")


def test_inspect_tells_of_a_checkpoint(
    tiny_whisper: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_whisper), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["family"] == "whisper"
    assert facts["dtypes"] == ["F32"]
    assert facts["parameters"] > 100_000


def _fresh(arguments: list[str]) -> tuple[int, list[str], str]:
    """Run in a fresh process; give the exit code, the heavy modules loaded, and what it told."""
    script = (
        "import sys; from exporter.cli import main; code = main(sys.argv[2:])\n"
        "open(sys.argv[1], 'w').write(' '.join(sys.modules)); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "modules", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    modules = Path("modules").read_text().split()
    return done.returncode, [name for name in HEAVY if name in modules], done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["build", "--help"],
        ["list"],
        ["list", "--json"],
        ["machine"],
        ["machine", "--json"],
    ],
    ids=" ".join,
)
def test_starting_loads_nothing_heavy(arguments: list[str]) -> None:
    assert _fresh(arguments) == (0, [], "")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_looking_at_an_artifact_loads_nothing_heavy(artifact: Path, command: str) -> None:
    assert _fresh([command, str(artifact)]) == (0, [], "")


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-m", "exporter", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait() == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_cleans_up(here: Path, number: signal.Signals, code: int) -> None:
    script = (
        "import sys, time, pathlib; from exporter.cli import main\n"
        "from exporter.cli.output import facts\n"
        "def slow(_):\n"
        "    try:\n"
        "        pathlib.Path('started').touch(); time.sleep(60)\n"
        "    finally:\n"
        "        pathlib.Path('cleaned').touch()\n"
        "facts.of_folder = slow; sys.exit(main(['list']))"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        while not (here / "started").exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait() == code
    assert (here / "cleaned").exists()
