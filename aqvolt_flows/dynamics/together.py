"""One batch of NpT runs with a loaded potential: what a campaign's job and ``NpTMDMaker`` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from aqvolt_flows.dynamics.checkpoints import BatchFolder
from aqvolt_flows.dynamics.determinism import deterministic
from aqvolt_flows.dynamics.memory import MemoryRecord, room_for
from aqvolt_flows.dynamics.npt import NpTRun
from aqvolt_flows.dynamics.segments import Ended, Segment
from aqvolt_flows.dynamics.systems import Outcome, System, refusal
from aqvolt_flows.potentials import Potential
from aqvolt_flows.potentials.given import trial_failure
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure


class Writer(Protocol):
    """Takes what becomes of each system."""

    def refused(self, system: System, why: Failure) -> None:
        """Take a system that is not run."""
        ...

    def started(self, outcomes: Mapping[str, Outcome], segment: int) -> None:
        """Take what is about to run, and the number of this segment, from 1."""
        ...

    def progressed(self, run: NpTRun) -> None:
        """Called after every step."""
        ...

    def ended(self, ended: Ended) -> None:
        """Take a trajectory with its frames; the file is removed afterwards."""
        ...


def run_together(
    potential: Potential,
    systems: Sequence[System],
    parameters: ExplorationParameters,
    folder: Path,
    writer: Writer,
    memory: Callable[[torch.device], MemoryRecord] | None = None,
    ends_at: float | None = None,
) -> bool:
    """Run systems in batches that fit into memory; return whether all have ended.

    Parameters
    ----------
    potential
        Gives a torch-sim model with stress, and the elements that it knows.
    systems
        Every trajectory id once. One with an unknown element, overlapping atoms or a single atom is refused, the
        others run.
    parameters
        Integrator, limits, sizes.
    folder
        For checkpoints and part files while the batch runs; a run that was killed continues from there.
    writer
        Takes refusals, progress and ends.
    memory
        Gives the record of what earlier runs learned about the device's memory; none: nothing is recorded.
    ends_at
        See :func:`aqvolt_flows.dynamics.segments.deadline`.
    """
    fit = []
    for system in systems:
        why = refusal(system.atoms, potential.elements, potential.name, parameters.min_distance_factor)
        why = why or trial_failure(potential, system.atoms)
        if why is None:
            fit.append(system)
        else:
            writer.refused(system, why)
    if not fit:
        return True
    with BatchFolder(folder) as held:
        model: Any = potential.torchsim_model()
        record = memory(model.device) if memory is not None else None
        room = room_for(model, [s.atoms for s in fit], parameters.max_batch_atoms, record)
        on_out_of_memory = record.too_large if record is not None else None
        segment = Segment(
            held,
            lambda sink: NpTRun(model, fit, parameters, sink, room, on_out_of_memory),
            parameters.checkpoint_steps,
            writer.ended,
            ends_at,
        )
        writer.started(segment.run.outcomes, segment.segment)
        with deterministic(parameters.deterministic, model.device):
            return segment.go(writer.progressed)
