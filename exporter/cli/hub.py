"""The push and pull commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_artifacts
from exporter.cli.output.terminal import shown
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal
    from exporter.hub.push import Pushed
    from exporter.hub.upload_plan import UploadPlan


@command(
    "artifacts/whisper-demo-int8 --dry-run",
    "artifacts/whisper-demo-int8/onnx-int8 --repo ORG/NAME --private",
    extra="hub",
)
@click.argument("path", type=click.Path(path_type=Path), shell_complete=complete_artifacts)
@click.option("--repo", metavar="ORG/NAME", help="Repository in place of the recipe's `hub.repo`.")
@click.option("--private/--public", default=None, help="Visibility in place of the recipe's.")
@click.option("--revision", metavar="BRANCH", default="main", show_default=True, help="Branch.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of changing `main`.")
@click.option("--dry-run", is_flag=True, help="Show the files and the model card; send nothing.")
def push(
    terminal: Terminal,
    path: Path,
    repo: str | None,
    private: bool | None,
    revision: str,
    create_pr: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Push artifacts that passed their gate to the Hub.

    PATH is an artifact, or a folder of them; each goes to a repository of its own.
    """
    if create_pr and revision != "main":
        msg = "--create-pr is a request to `main`: leave out --revision"
        raise click.UsageError(msg)
    from exporter.hub import push as pushing
    from exporter.validate.corpus.unchanged import Rereader

    with terminal.progress() as progress:
        progress("verifying", None)
        plans = pushing.plan_push(path, repo, private, Rereader(progress))
    if dry_run:
        _say_plans(terminal, plans, as_json)
        return
    done: list[Pushed] = []
    try:
        with terminal.progress() as progress:
            for one in pushing.push(plans, pushing.Way(revision, create_pr), progress):
                done.append(one)
    finally:  # prints what was pushed, also when the next one fails
        _say_pushed(terminal, done, as_json)


def _say_plans(terminal: Terminal, plans: list[UploadPlan], as_json: bool) -> None:
    from exporter.hub.model_card import CARD

    cards = [
        item.source.decode()
        for plan in plans
        for item in plan.items
        if item.path == CARD and isinstance(item.source, bytes)
    ]
    if as_json:
        rows = [
            {**_row(plan), "private": plan.private, "card": card}
            for plan, card in zip(plans, cards, strict=True)
        ]
        terminal.say_json(plan=rows)
        return
    for plan, card in zip(plans, cards, strict=True):
        closed = "private" if plan.private else "public"
        terminal.say_wrapped(
            f"{shown(plan.proof.folder)} to {plan.repo}, {closed}, as {plan.tag}: "
            f"{shown_bytes(plan.size_bytes)}"
        )
        terminal.say_wrapped(f"  {_of_clips(plan)}")
        for item in plan.items:
            terminal.say(f"  {item.path} {shown_bytes(item.size_bytes)}")
        terminal.say(*card.split("\n"))


def _of_clips(plan: UploadPlan) -> str:
    """Tell whether the clips were compared with the report's."""
    source = plan.proof.report.data.source
    if plan.proof.corpus_read_again:
        return f"clips of {source} read again: as judged"
    return f"clips of {source} not read again: they are not on this machine"


def _row(plan: UploadPlan) -> dict[str, Any]:
    return {
        "path": str(plan.proof.folder),
        "repo": plan.repo,
        "digest": plan.proof.manifest.digest,
        "corpus_read_again": plan.proof.corpus_read_again,
        "files": [
            {"path": item.path, "size_bytes": item.size_bytes, "sha256": item.sha256}
            for item in plan.items
        ],
    }


def _say_pushed(terminal: Terminal, done: list[Pushed], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                **_row(one.plan),
                "changed": one.changed,
                "commit": one.commit,
                "tag": one.tag,
                "pull_request": one.pull_request,
                "url": one.url,
            }
            for one in done
        ]
        terminal.say_json(pushed=rows)
        return
    for one in done:
        plan, commit = one.plan, one.commit[:12]
        what = f"{len(plan.items)} files, {shown_bytes(plan.size_bytes)}"
        did = f"pushed {what}" if one.changed else f"already up to date, {what}"
        tagged = f", tag {one.tag}" if one.tag else ""
        terminal.say_wrapped(
            f"{shown(plan.proof.folder)} to {plan.repo}: {did}; commit {commit}{tagged}",
            f"  {_of_clips(plan)}",
            f"  {one.url}",
        )


@command("ORG/NAME", "ORG/NAME@sha256-0123456789ab --output models", extra="hub")
@click.argument("name", metavar="ORG/NAME[@REVISION]")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="artifacts",
    show_default=True,
    help="Folder of artifacts, which gets ORG/NAME.",
)
@click.option("--force", is_flag=True, help="Replace a different artifact there.")
def pull(terminal: Terminal, name: str, output: Path, force: bool, as_json: bool) -> None:
    """Download an artifact from the Hub and verify every byte."""
    from exporter.hub import pull as pulling

    with terminal.progress() as progress:
        got = pulling.pull(name, output, progress, force=force)
    if as_json:
        terminal.say_json(
            path=str(got.path),
            repo=got.repo,
            commit=got.commit,
            digest=got.manifest.digest,
            fresh=got.fresh,
            manifest=got.manifest.model_dump(mode="json"),
        )
        return
    did = "pulled and verified" if got.fresh else "already there, verified"
    terminal.say_wrapped(
        f"{shown(got.path)}: {shown_bytes(got.manifest.size_bytes)}, {did}; "
        f"{got.repo} at {got.commit[:12]}, digest {got.manifest.digest[:12]}"
    )
