"""The workflow that `exporter init --github` writes: what it runs, when, and who has the token."""

import json
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from exporter import cli
from exporter.artifact import report
from exporter.cli import validate
from exporter.cli.init import workflow
from exporter.errors import RecipeError
from exporter.recipe import read
from tests.support import passing

COMMIT = "git+https://git.example/org/exporter@" + "a" * 40
PACKAGE = f"exporter @ {COMMIT}"
MAIN = "github.event_name == 'push' && github.ref == 'refs/heads/main'"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    (root / ".git").mkdir(parents=True)
    (root / "recipes").mkdir()
    (root / "recipes" / "speech.yaml").write_text(passing.RECIPE)
    monkeypatch.chdir(root)
    return root


def initialise(*options: str, recipe: str = "recipes/speech.yaml", package: str = PACKAGE) -> int:
    return cli.main(["init", "--github", recipe, "--package", package, *options])


def parsed(root: Path) -> Any:
    return YAML(typ="safe").load(root / workflow.PLACE)


@pytest.fixture
def written(repository: Path) -> Any:
    assert initialise() == 0
    return parsed(repository)


def steps(job: Any, key: str) -> list[Any]:
    return [step[key] for step in job["steps"] if key in step]


def test_every_action_is_pinned_by_commit(repository: Path, written: Any) -> None:
    text = (repository / workflow.PLACE).read_text()
    used = re.findall(r"^ +- uses: (.*)$", text, flags=re.M)
    assert len(used) == sum(len(steps(job, "uses")) for job in written["jobs"].values())
    for line in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_only_the_main_branch_pushes_and_only_what_passed(written: Any) -> None:
    assert written["on"] == {
        "push": {"branches": ["main"]},
        "pull_request": None,
        "workflow_dispatch": None,
    }
    push = written["jobs"]["push"]
    assert (push["needs"], push["if"]) == ("build", MAIN)
    runs = {name: steps(job, "run") for name, job in written["jobs"].items()}
    assert [name for name, lines in runs.items() if "exporter push" in "\n".join(lines)] == ["push"]
    last = runs["build"][-1]
    assert last.startswith("exporter validate ")
    assert "continue-on-error" not in json.dumps(written)


def test_only_the_step_that_pushes_has_the_token(written: Any) -> None:
    assert written["permissions"] == {"contents": "read"}
    holders = [step for step in written["jobs"]["push"]["steps"] if "secrets." in json.dumps(step)]
    assert [step["env"] for step in holders] == [{"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}]
    assert holders[0]["run"].startswith("exporter push ")
    assert written["jobs"]["push"]["environment"] == "huggingface"
    del written["jobs"]["push"]
    told = json.dumps(written)
    assert "secrets" not in told
    assert "token" not in told.lower()
    assert "environment" not in told
    assert "permissions" not in json.dumps(written["jobs"])


def commands(document: Any) -> Iterator[list[str]]:
    """Every command line of ours, its variables replaced as bash would."""
    for job in document["jobs"].values():
        for line in "\n".join(steps(job, "run")).splitlines():
            words = shlex.split(line)
            if words[0] == "exporter":
                env = {**document["env"], "GITHUB_STEP_SUMMARY": "summary.md"}
                yield [env[word[1:]] if word.startswith("$") else word for word in words[1:]]


def test_its_lines_are_commands_of_ours(written: Any) -> None:
    found = list(commands(written))
    assert [words[0] for words in found] == ["build", "validate", "push"]
    for name, *words in found:
        command = cli.cli.commands[name]
        command.make_context(name, words, parent=click.Context(cli.cli, obj=object()))
    assert found[0][1:] == ["recipes/speech.yaml"]
    assert found[1][1] == found[2][1] == "artifacts/speech"


@pytest.mark.parametrize(
    "name",
    ['it\'s: a #1 "recipe" & more.yaml', "$(touch canary) `x` ; y.yaml", "-rf.yaml", "é.yaml"],
)
def test_odd_names_stay_data(repository: Path, name: str) -> None:
    (repository / name).write_text(passing.RECIPE)
    assert initialise(recipe=str(repository / name)) == 0
    document = parsed(repository)
    assert Path(document["env"]["RECIPE"]) == Path(name)
    assert not document["env"]["RECIPE"].startswith("-")
    runs = "\n".join(line for job in document["jobs"].values() for line in steps(job, "run"))
    assert not re.search(r"\$\{\{|[^\"]\$[A-Z]", runs)


def test_what_github_would_compute_is_refused(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (repository / "${{ secrets.X }}.yaml").write_text(passing.RECIPE)
    assert initialise(recipe="${{ secrets.X }}.yaml") == 2
    assert initialise(package="x\n  y") == 2
    assert not (repository / ".github").exists()
    assert capfd.readouterr().err.count("cannot be written into a workflow") == 2


def test_another_workflow_stays_unless_forced(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = repository / workflow.PLACE
    assert initialise() == initialise() == 0
    said = capfd.readouterr().out
    assert said.startswith(".github/workflows/export.yml: builds and validates every push")
    assert "HF_TOKEN" in said
    ours = place.read_text()
    place.write_text("mine\n")
    assert initialise() == 2
    assert place.read_text() == "mine\n"
    assert "replace it with --force" in capfd.readouterr().err
    assert initialise("--force") == 0
    assert place.read_text() == ours


def test_what_a_runner_could_not_do_is_told(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def told(text: str, place: Path = repository / "recipes" / "speech.yaml") -> tuple[int, str]:
        place.write_text(text)
        code = initialise("--force", recipe=str(place))
        return code, capfd.readouterr().err

    nowhere = passing.RECIPE.replace("hub:", "# hub:")
    assert told(nowhere)[0] == 2
    assert "add `hub: {repo: ORG/NAME}`" in told(nowhere)[1]
    assert "is in no git repository" in told(passing.RECIPE, tmp_path / "speech.yaml")[1]
    (tmp_path / "checkpoint").mkdir()
    outside = passing.RECIPE.replace("openai/whisper-small", "../../checkpoint")
    code, said = told(outside)
    assert code == 0
    assert "../../checkpoint lies outside the repository" in said
    assert cli.main(["init", "recipes/speech.yaml"]) == 2
    assert "--github" in capfd.readouterr().err


class Installed:
    version = "1.2.3"

    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return json.dumps(self._origin) if self._origin else None


def test_the_runner_installs_what_is_installed_here(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def package(origin: object) -> str:
        def found(name: str) -> Installed:
            if origin == "absent":
                raise PackageNotFoundError(name)
            return Installed(origin)

        monkeypatch.setattr(workflow, "distribution", found)
        recipe = read(repository / "recipes" / "speech.yaml")
        workflow.write(recipe, None, force=True)
        return str(parsed(repository)["env"]["EXPORTER"])

    assert package(None) == "asr-exporter[validate,onnxruntime,datasets]==1.2.3"
    commit = {"vcs": "git", "commit_id": "a" * 40, "requested_revision": "main"}
    origin = {"url": "https://git.example/org/exporter", "vcs_info": commit}
    assert package(origin) == f"asr-exporter[validate,onnxruntime,datasets] @ {COMMIT}"
    here = {"url": repository.as_uri(), "dir_info": {"editable": True}}
    assert package(here) == ".[validate,onnxruntime,datasets]"
    for elsewhere in ({"url": "file:///elsewhere", "dir_info": {}}, "absent"):
        with pytest.raises(RecipeError, match="pass --package"):
            package(elsewhere)


def test_verdicts_in_markdown(tmp_path: Path) -> None:
    folders = [passing.make(tmp_path / name) for name in ("onnx-int8", "other")]
    judged = [report.read(folders[0]), passing.judged(folders[1], verdict="failed")]
    head, line, first, second, *checks = validate.markdown(folders, judged).splitlines()
    assert head.startswith("| artifact | verdict | WER | original WER | points, 95 % |")
    assert line == "| --- | --- |" + " ---: |" * 8
    assert first.startswith("| speech/onnx-int8 | passed | 4.00% | 4.57% | -0.57 [")
    assert first.endswith(" | 5.37 MB (34%) |")
    assert second.startswith("| speech/other | failed | ")
    told = [f"- {name}: word errors: within the gate" for name in ("onnx-int8", "other")]
    assert checks == ["", *told]
