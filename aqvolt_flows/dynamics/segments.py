"""Run a batch in segments: checkpoint at fixed steps, stop before the walltime, and continue from there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqvolt_flows.aside import written_aside
from aqvolt_flows.dynamics.checkpoints import BatchFolder, PartFrames, Statistics
from aqvolt_flows.dynamics.memory import Room
from aqvolt_flows.dynamics.npt import NpTRun
from aqvolt_flows.dynamics.systems import Outcome, System
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.stopping import stop_wanted

#: Set by Slurm (22.05 and later): when the allocation ends, seconds since the epoch.
_SLURM_END = "SLURM_JOB_END_TIME"
#: Kept free before the end of an allocation, for the last checkpoint and for storing what is done.
MARGIN_S = 120.0
#: A checkpoint interval may take this much longer than the last one.
_SLACK = 1.2


def deadline(walltime_s: float | None, started: float, environment: Mapping[str, str] | None = None) -> float | None:
    """Return when a segment must have ended, as ``time.time()`` counts; None: never.

    Parameters
    ----------
    walltime_s
        Seconds that a segment may take; None: no limit.
    started
        When it began.
    environment
        Where a batch system says when the allocation ends; by default this process's.
    """
    ends = [] if walltime_s is None else [started + walltime_s]
    slurm = (os.environ if environment is None else environment).get(_SLURM_END, "")
    if slurm.isdigit():
        ends.append(float(slurm) - MARGIN_S)
    return min(ends, default=None)


@dataclass(frozen=True)
class Ended:
    """A trajectory that has ended, with its frames in one file."""

    outcome: Outcome
    path: Path
    statistics: Statistics


class Segment:
    """One process's part of a batch.

    Parameters
    ----------
    folder
        Of the batch, held.
    make_run
        Makes the run; it is given the sink for its frames.
    checkpoint_steps
        Steps between checkpoints; taken at the next step that is written.
    on_ended
        Stores a trajectory that has ended; may be called again for one that was stored just before a kill.
    ends_at
        See :func:`deadline`.
    clock
        As ``time.time``.
    """

    def __init__(
        self,
        folder: BatchFolder,
        make_run: Callable[[PartFrames], NpTRun],
        checkpoint_steps: int,
        on_ended: Callable[[Ended], None],
        ends_at: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._every, self._on_ended = folder, checkpoint_steps, on_ended
        self._ends_at, self._clock = ends_at, clock
        state = folder.load()
        self._frames = PartFrames(folder.folder, state["parts"] if state else None)
        self.run = make_run(self._frames)
        self._stored: set[str] = set(state["stored"]) if state else set()
        self.segment = state["segment"] + 1 if state else 1
        if state:
            self.run.restore(state["run"])

    def go(self, on_progress: Callable[[NpTRun], None] | None = None) -> bool:
        """Run until the batch is done, the time is over or this process is asked to stop; return whether it is done.

        The end comes at a checkpoint after which the next could not be reached in time, or, if not even one can, at
        the first written step after the time is over, so that every segment makes progress.
        """
        try:
            return self._go(on_progress)
        finally:
            self._frames.close()

    def _go(self, on_progress: Callable[[NpTRun], None] | None) -> bool:
        since, began = 0, self._clock()
        while not self.run.done:
            before = self.run.tick
            self.run.advance()
            since += self.run.tick - before
            if on_progress:
                on_progress(self.run)
            if not self.run.aligned or self.run.done:
                continue
            late = stop_wanted() or (self._ends_at is not None and self._clock() > self._ends_at)
            if since < self._every and not late:
                continue
            self._checkpoint()
            now = self._clock()
            took, since, began = now - began, 0, now
            if late or (self._ends_at is not None and now + _SLACK * took > self._ends_at):
                return False
        self._checkpoint()
        self._folder.remove()
        return True

    def _checkpoint(self) -> None:
        """Write parts and state, then store what has ended; each step may be the last one of this process."""
        snapshot = self.run.snapshot()
        self._frames.close_part()
        gone = self._frames.forget(self._stored)
        self._folder.save(
            {
                "run": snapshot,
                "parts": self._frames.parts,
                "stored": sorted(self._stored),
                "segment": self.segment,
            }
        )
        for path in gone:
            path.unlink(missing_ok=True)
        for trajectory_id, outcome in self.run.outcomes.items():
            if outcome.ended and trajectory_id not in self._stored:
                path = self._folder.folder / "joined"
                statistics = self._frames.join(trajectory_id, path)
                self._on_ended(Ended(outcome, path, statistics))
                path.unlink()
                self._stored.add(trajectory_id)


def explore_to_folder(
    model: Any,
    systems: Sequence[System],
    parameters: ExplorationParameters,
    folder: str | Path,
    room: Room | None = None,
    on_progress: Callable[[NpTRun], None] | None = None,
) -> dict[str, Ended]:
    """Run systems without a database, checkpoints and all: ``folder/TRAJECTORY_ID.parquet`` for each.

    Called again after a kill, it continues from the last checkpoint; what ended before is not returned again.

    Parameters
    ----------
    model
        A torch-sim model that computes stress.
    systems
        What to run.
    parameters
        Of the campaign.
    folder
        Where files and, while it runs, checkpoints are written.
    room
        How much runs together; by default the parameters' ``max_batch_atoms``.
    on_progress
        Called after every step.
    """
    target = Path(folder)
    results: dict[str, Ended] = {}

    def store(ended: Ended) -> None:
        trajectory_id = ended.outcome.system.trajectory_id
        path = target / f"{trajectory_id}.parquet"
        with written_aside(path) as aside:
            shutil.copyfile(ended.path, aside)
        results[trajectory_id] = Ended(ended.outcome, path, ended.statistics)

    with BatchFolder(target / "checkpoints") as held:
        Segment(
            held,
            lambda sink: NpTRun(model, systems, parameters, sink, room),
            parameters.checkpoint_steps,
            store,
        ).go(on_progress)
    return results
