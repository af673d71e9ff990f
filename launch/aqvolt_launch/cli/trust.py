"""``aqvolt model trust`` and ``trusted``: which checkpoints by path may be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere
from aqvolt_launch.cli.model import models
from aqvolt_launch.cli.options import Json


def register(_app: typer.Typer) -> None:
    """Nothing more: the commands joined the group ``model`` above."""


@models.command(epilog="Example: aqvolt model trust inference_ckpt.pt")
@anywhere
def trust(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH…", help="Checkpoint files, folders of matgl models, or exported models."),
    ],
    as_json: Json = False,
) -> None:
    """Let checkpoints be loaded: their hashes go into a list that only you can write.

    Loading a checkpoint can run code. Trust only what you, or people you trust, made. A changed file is unknown again.
    """
    from aqvolt_flows.potentials.registry import path_hash
    from aqvolt_flows.potentials.trust import trust as add
    from aqvolt_flows.potentials.trust import trust_file

    rows = []
    for path in paths:
        digest = path_hash(path)
        rows.append(
            {"path": str(path), "sha256": digest, "done": "trusted" if add(digest, path) else "trusted already"}
        )
    output.table(rows, as_json, title=f"Trusted, in {trust_file()}")


@models.command(epilog="Example: aqvolt model trusted")
@anywhere
def trusted(as_json: Json = False) -> None:
    """List the checkpoints that you trust: hash, and when and where you said so."""
    from aqvolt_flows.potentials.trust import trust_file, trusted_hashes

    rows = [{"sha256": digest, "said": said} for digest, said in trusted_hashes().items()]
    output.table(rows, as_json, title=f"Trusted, in {trust_file()}")
