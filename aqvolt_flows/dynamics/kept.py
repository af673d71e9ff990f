"""Run systems in a folder that keeps each one's frames: for benchmarks, which look at trajectories and store none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from aqvolt_flows.aside import written_aside
from aqvolt_flows.dynamics.checkpoints import BatchFolder, PartFrames
from aqvolt_flows.dynamics.kept_status import KeptRun
from aqvolt_flows.dynamics.npt import NpTRun
from aqvolt_flows.dynamics.segments import Ended, deadline
from aqvolt_flows.dynamics.systems import Outcome, System
from aqvolt_flows.dynamics.together import run_together
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.potentials import Potential
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure

#: Failures of the machine, not of the physics: what the run would have done next is not known.
OF_THE_MACHINE = frozenset({"out_of_memory"})
_CHECKPOINTS = "checkpoints"


class _Keeper:
    """A writer that copies frames into the folder, with a line beside them that says how the run ended."""

    def __init__(self, folder: Path, on_progress: Callable[[int], None] | None) -> None:
        self.folder, self._on_progress = folder, on_progress
        self.found: dict[str, KeptRun] = {}

    def earlier(self, trajectory_id: str) -> KeptRun | None:
        """Return how a run ended that an earlier call finished, or None."""
        try:
            values = json.loads((self.folder / f"{trajectory_id}.json").read_text())
            failure = Failure(**values["failure"]) if values["failure"] else None
            path = self.folder / f"{trajectory_id}.parquet"
            return KeptRun(trajectory_id, values["status"], values["steps_done"], failure, path, values["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def refused(self, system: System, why: Failure) -> None:
        """Take a system that is not run."""
        self.found[system.trajectory_id] = KeptRun(system.trajectory_id, "refused", 0, why, None)

    def started(self, outcomes: Mapping[str, Outcome], segment: int) -> None:
        """Nothing is written at the start."""

    def progressed(self, run: NpTRun) -> None:
        """Say how many have ended."""
        if self._on_progress is not None and run.aligned:
            self._on_progress(len(self.found))

    def ended(self, ended: Ended) -> None:
        """Keep a trajectory; the file that says how it ended is written last."""
        outcome, name = ended.outcome, ended.outcome.system.trajectory_id
        path = self.folder / f"{name}.parquet"
        status = _status(outcome)
        said: dict[str, Any] = {
            "status": status,
            "steps_done": outcome.steps_done,
            "failure": outcome.failure.model_dump(mode="json") if outcome.failure else None,
            "seconds": round(outcome.seconds, 3),
        }
        try:
            with written_aside(path) as aside:
                shutil.copyfile(ended.path, aside)
            with written_aside(self.folder / f"{name}.json") as aside:
                aside.write_text(json.dumps(said))
        except OSError as error:
            raise ResourceError(
                f"The frames of {name} cannot be kept in {self.folder} ({error}); free space or set checkpoint_dir, "
                "and run it again: it continues from its last checkpoint."
            ) from error
        self.found[name] = KeptRun(name, status, outcome.steps_done, outcome.failure, path, said["seconds"])


def run_kept(
    potential: Potential,
    systems: Sequence[System],
    parameters: ExplorationParameters,
    folder: Path,
    max_seconds: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, KeptRun]:
    """Run systems in batches and return how each ended, in the order given.

    Called again with the same folder after a kill, it continues from the last checkpoint and repeats nothing that had
    ended.

    Parameters
    ----------
    potential
        Gives a torch-sim model with stress.
    systems
        Every trajectory id once; ids are names of files.
    parameters
        Integrator, limits, sizes.
    folder
        Made if it is not there.
    max_seconds
        Runs that have not ended after this time are ``interrupted``, with the frames up to the last checkpoint. A
        batch system's end of the allocation counts, too.
    on_progress
        Called with the number of runs that have ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keeper = _Keeper(folder, on_progress)
    for system in systems:
        earlier = keeper.earlier(system.trajectory_id)
        if earlier is not None:
            keeper.found[system.trajectory_id] = earlier
    left = [s for s in systems if s.trajectory_id not in keeper.found]
    if left:
        ends_at = deadline(max_seconds, time.time())
        done = run_together(potential, left, parameters, folder / _CHECKPOINTS, keeper, ends_at=ends_at)
        if not done:
            _interrupt(left, keeper, parameters)
    return {s.trajectory_id: keeper.found[s.trajectory_id] for s in systems}


def _status(outcome: Outcome) -> Literal["completed", "failed", "interrupted"]:
    if outcome.failure is None:
        return "completed"
    return "interrupted" if outcome.failure.reason in OF_THE_MACHINE else "failed"


def _interrupt(systems: Sequence[System], keeper: _Keeper, parameters: ExplorationParameters) -> None:
    """Note every run that has not ended, with its frames so far."""
    with BatchFolder(keeper.folder / _CHECKPOINTS) as held:
        state = held.load()
        steps = _steps_of(state)
        frames = PartFrames(held.folder, state["parts"] if state else None)
        for system in systems:
            name = system.trajectory_id
            if name in keeper.found:
                continue
            made, path = steps.get(name, 0), keeper.folder / f"{name}.partial.parquet"
            known = frames.join(name, path).n_frames > 0
            message = f"the time ended after {made} of {parameters.n_steps} steps"
            why = Failure(reason="out_of_time", message=message)
            keeper.found[name] = KeptRun(name, "interrupted", made, why, path if known else None)
        frames.close()


def _steps_of(state: dict[str, Any] | None) -> dict[str, int]:
    if state is None:
        return {}
    run = state["run"]
    batches = [b for b in [run["batch"], *run["parked"]] if b is not None]
    return {name: int(n) for b in batches for name, n in zip(b["ids"], b["steps"], strict=True)}
