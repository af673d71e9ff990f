"""How a kept run ended (:mod:`aqvolt_flows.dynamics.kept`); without torch, for those that only read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aqvolt_flows.schemas.provenance import Failure


@dataclass(frozen=True)
class KeptRun:
    """How a system's run ended.

    Attributes
    ----------
    status
        ``completed``; ``failed``: it left physics (:mod:`aqvolt_flows.dynamics.stability`); ``interrupted``: the
        machine or the time ended it; ``refused``: it was not started.
    steps_done
        Steps made.
    failure
        Why it is not ``completed``.
    path
        Parquet file of its frames; None where there are none.
    seconds
        Its share of the wall time.
    """

    trajectory_id: str
    status: Literal["completed", "failed", "interrupted", "refused"]
    steps_done: int
    failure: Failure | None
    path: Path | None
    seconds: float = 0.0
