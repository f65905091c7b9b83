"""The sign and verify commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_artifacts
from exporter.cli.output.terminal import shown
from exporter.errors import needing
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal
    from exporter.runtime.manifest import SealedManifest


@command("artifacts/whisper-demo-int8 --key private.pem", extra="sign")
@click.argument("path", type=click.Path(path_type=Path), shell_complete=complete_artifacts)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PRIVATE.pem",
    help="Private key on the curve P-256, P-384 or P-521.",
)
def sign(terminal: Terminal, path: Path, key: Path, as_json: bool) -> None:
    """Sign artifacts and their reports with your own key.

    PATH is an artifact, or a folder of them. Needs the extra `sign`:

    \b
        pip install 'asr-exporter[sign]'
    """
    from exporter.artifact import signing
    from exporter.artifact.lookup import find

    done = [(folder, signing.sign(folder, key)) for folder in find(path)]
    if as_json:
        rows = [{"path": str(folder), "digest": manifest.digest} for folder, manifest in done]
        terminal.say_json(signed=rows)
        return
    for folder, manifest in done:
        judged = (folder / signing.VERDICT).exists()
        terminal.say_wrapped(
            f"{shown(folder)}: signed, digest {manifest.digest[:12]}; "
            f"{'its report too' if judged else 'no report yet'}"
        )


@command("artifacts/whisper-demo-int8", "artifacts/ORG/NAME --key public.pem")
@click.argument("path", type=click.Path(path_type=Path), shell_complete=complete_artifacts)
@click.option("--signature", "signed", is_flag=True, help="Also require trusted signatures.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC.pem",
    help="Require signatures by this key, not by your keyring's; implies --signature.",
)
def verify(terminal: Terminal, path: Path, signed: bool, key: Path | None, as_json: bool) -> None:
    """Check the bytes of artifacts against their manifests.

    PATH is an artifact, or a folder of them. Exits with 5 where a byte differs.
    """
    from exporter.artifact import provenance, store
    from exporter.artifact.lookup import find

    rows: list[dict[str, Any]] = []
    for folder in find(path):
        manifest = store.verify_sealed(folder)
        provenance.require(folder, manifest)
        row: dict[str, Any] = {
            "path": str(folder),
            "digest": manifest.digest,
            "size_bytes": manifest.size_bytes,
        }
        if signed or key:
            row["signatures"] = _signers(folder, manifest, key)
        rows.append(row)
    if as_json:
        terminal.say_json(verified=rows)
        return
    for row in rows:
        place = shown(Path(row["path"]))
        terminal.say(f"{place}: {shown_bytes(row['size_bytes'])}, verified")
        terminal.say(f"  digest {row['digest']}")
        for name, by in row.get("signatures", {}).items():
            terminal.say(f"  {name} by {by}")


def _signers(folder: Path, manifest: SealedManifest, key: Path | None) -> dict[str, str]:
    """Verify the signatures; return each one's key by its file."""
    with needing("sign"):
        from exporter.artifact import signing

        return {name: str(by) for name, by in signing.verify(folder, manifest, key).items()}
