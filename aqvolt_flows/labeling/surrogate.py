"""Any potential as labeler; its labels carry ``surrogate:<model>@<hash>`` and are never mistaken for DFT."""

from __future__ import annotations

import time
from dataclasses import dataclass

from jobflow import Maker, job

from aqvolt_flows.frames import Frame
from aqvolt_flows.labeling.outcomes import label_frame
from aqvolt_flows.labeling.protocols import surrogate_protocol
from aqvolt_flows.labeling.validate import computed
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.stores import Database


def evaluate_frame(
    frame: Frame, potential: str, device: str, frame_id: str, key: str, protocol: Protocol
) -> LabelOutcome:
    """Return the outcome of evaluating one frame with a potential (loaded once per process).

    ``cost_core_hours`` counts the processor time of this process for the evaluation, loading excluded.
    """
    model = load_potential(potential, device)
    atoms = frame.to_atoms()
    started, begun = time.process_time(), time.perf_counter()
    result = model.evaluate([atoms])[0]
    seconds, wall = time.process_time() - started, time.perf_counter() - begun
    return computed(
        frame_id=frame_id,
        key=key,
        protocol=protocol,
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        energy=result.energy,
        forces=result.forces,
        stress=result.stress,
        cost_core_hours=seconds / 3600.0,
        details={"wall_s": round(wall, 4)},
    )


@dataclass
class SurrogateStaticMaker(Maker):
    """Label a frame with a machine-learning potential.

    Parameters
    ----------
    name
        Job name.
    potential
        Model string, e.g. ``chgnet/r2scan``.
    """

    name: str = "surrogate static"
    potential: str = "chgnet/r2scan"

    @job
    def make(self, frame_id: str, key: str) -> dict[str, object]:
        """Return a :class:`LabelOutcome` as JSON types for one frame.

        Parameters
        ----------
        frame_id
            Identity of the frame in ``frames``.
        key
            :func:`aqvolt_flows.labeling.protocols.label_key` of the frame and this potential.
        """
        protocol = surrogate_protocol(self.potential)

        def evaluate(database: Database, frame: Frame) -> LabelOutcome:
            return evaluate_frame(frame, self.potential, database.settings.resolve_device(), frame_id, key, protocol)

        return label_frame(frame_id, key, protocol, evaluate)
