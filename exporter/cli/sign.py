"""The commands about signatures: sign an artifact, and verify its bytes and who signed them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command
from exporter.cli.output.terminal import shown
from exporter.errors import IntegrityError
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal


def _artifacts(path: Path) -> list[Path]:
    """The artifact at a path, or those in a folder: never none, which would be no error."""
    from exporter.artifact import store

    if found := store.find(path):
        return found
    msg = f"no artifact in {path}: build one with exporter build RECIPE"
    raise IntegrityError(msg)


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PRIVATE.pem",
    help="An elliptic-curve key: P-256, P-384 or P-521.",
)
def sign(terminal: Terminal, path: Path, key: Path, as_json: bool) -> None:
    """Sign an artifact, or a folder of them, and the report on each, with a key of your own."""
    from exporter.artifact import signing

    done = [(folder, signing.sign(folder, key)) for folder in _artifacts(path)]
    if as_json:
        rows = [{"path": str(folder), "digest": told.digest} for folder, told in done]
        terminal.say_json(signed=rows)
        return
    for folder, told in done:
        judged = (folder / signing.VERDICT).exists()
        terminal.say(
            f"{shown(folder)}: signed, digest {told.digest[:12]}; "
            f"{'its report too' if judged else 'it has no report yet'}"
        )


@command
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--signature", "signed", is_flag=True, help="Also who signed it, and its report.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC.pem",
    help="Signed by this one, instead of any of your keyring; implies --signature.",
)
def verify(terminal: Terminal, path: Path, signed: bool, key: Path | None, as_json: bool) -> None:
    """Hold an artifact, or a folder of them, against its manifest, byte for byte."""
    from exporter.artifact import provenance, signing, store

    rows: list[dict[str, Any]] = []
    for folder in _artifacts(path):
        told = store.verify(folder)
        provenance.require(folder, told)
        row: dict[str, Any] = {
            "path": str(folder),
            "digest": told.digest,
            "size_bytes": told.size_bytes,
        }
        if signed or key:
            found = signing.verify(folder, told, key)
            row["signatures"] = {name: str(by) for name, by in found.items()}
        rows.append(row)
    if as_json:
        terminal.say_json(verified=rows)
        return
    for row in rows:
        place = shown(Path(row["path"]))
        terminal.say(f"{place}: {shown_bytes(row['size_bytes'])}, as sealed")
        terminal.say(f"  digest {row['digest']}")
        for name, by in row.get("signatures", {}).items():
            terminal.say(f"  {name} by {by}")
