"""What a run was started with, and how what it would be continued with differs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import AqvoltError

STARTED = "started.json"
#: Whose version can change what a training computes.
CODE = ("aqvolt-flows", "fairchem-core", "torch", "torchtnt", "ase-db-backends")
#: Differences named in a message.
MAX_NAMED = 6
#: Where things are and how often they are reported: another machine or folder is no other training.
_PLACES = frozenset({"run_dir", "src", "path", "checkpoint_location", "timestamp_id", "every_n_steps", "print_every"})


class ResumeError(AqvoltError):
    """A run would be continued with other data, configuration, code or ranks than it was started with."""


def identity(config: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """Return what a run is: flat names and plain values.

    Parameters
    ----------
    config
        The trainer's configuration.
    data
        Names and hashes of what it is trained on.
    """
    ranks = config["job"]["scheduler"]
    plain = json.loads(json.dumps({k: v for k, v in config.items() if k != "job"}))
    return {
        **{f"data.{name}": value for name, value in data.items()},
        **{f"code.{name}": _version(name) for name in CODE},
        "ranks": int(ranks["ranks_per_node"]) * int(ranks.get("num_nodes", 1)),
        "seed": config["job"].get("seed"),
        "device": config["job"].get("device_type"),
        **{f"config.{name}": value for name, value in _flat(plain)},
    }


def check_same(folder: Path, now: Mapping[str, Any], resume: str) -> None:
    """Record what a run is when it starts; refuse to continue it as another.

    Parameters
    ----------
    folder
        Of the run.
    now
        From :func:`identity`.
    resume
        ``strict``, or ``any``: continue, and record what differs from now on.

    Raises
    ------
    ResumeError
        Naming what differs.
    """
    file = folder / STARTED
    before = _read(file)
    if before is None:  # it starts now, or an earlier version began it
        _write(file, now)
        return
    names = [name for name in {**before, **now} if not _same(before.get(name), now.get(name))]
    if not names:
        return
    if resume != "any":
        said = "; ".join(
            f"{name} was {_short(before.get(name))} and is {_short(now.get(name))}" for name in names[:MAX_NAMED]
        )
        more = f"; and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        raise ResumeError(
            f"The run in {folder} was started with something else ({said}{more}); continue it as it was, set "
            f"training.resume: any to continue it all the same, or remove the folder to start again."
        )
    _write(file, now)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(file: Path, now: Mapping[str, Any]) -> None:
    with written_aside(file) as aside:
        aside.write_text(json.dumps(now, indent=1))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        found = [(f"{name}.{key}" if name else key, inner) for key, inner in value.items() if key not in _PLACES]
        return [pair for key, inner in found for pair in _flat(inner, key)]
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        return [pair for place, inner in enumerate(value) for pair in _flat(inner, f"{name}[{place}]")]
    return [(name, value)]


def _same(before: Any, now: Any) -> bool:
    """Return whether two values are one; element references come from a fit, whose last digits may differ."""
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_same, before, now))
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=1e-9, abs_tol=1e-9)
    return bool(before == now)


def _short(value: Any) -> str:
    said = json.dumps(value)
    return said if len(said) <= 60 else said[:57] + "…"
