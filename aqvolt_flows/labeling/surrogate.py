"""Any potential as labeler; its labels carry ``surrogate:<model>@<hash>`` and are never mistaken for DFT."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aqvolt_flows.checks import Check, Status, checked
from aqvolt_flows.labeling.configuration import Configuration
from aqvolt_flows.labeling.protocols import surrogate_protocol
from aqvolt_flows.labeling.static_maker import Asked, JobFolder, StaticMaker
from aqvolt_flows.labeling.validate import computed
from aqvolt_flows.potentials import Potential, check_elements, check_model, model_hash
from aqvolt_flows.potentials.given import Model, as_potential, check_model_given, storable
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import Protocol


def evaluate_configuration(given: Configuration, model: Potential, asked: Asked) -> LabelOutcome:
    """Return the outcome of evaluating one configuration with a loaded potential.

    ``cost_core_hours`` counts the processor time of this process for the evaluation, loading excluded.
    """
    atoms = given.to_atoms()
    check_elements(model, [atoms])
    started, begun = time.process_time(), time.perf_counter()
    result = model.evaluate([atoms])[0]
    seconds, wall = time.process_time() - started, time.perf_counter() - begun
    return computed(
        frame_id=asked.frame_id,
        key=asked.key,
        protocol=asked.protocol,
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
class SurrogateStaticMaker(StaticMaker):
    """Compute energy, forces and stress of a structure with a machine-learning potential.

    Parameters
    ----------
    name
        Job name.
    potential
        Model string, e.g. ``chgnet/r2scan``; an ASE calculator, a
        :class:`~aqvolt_flows.potentials.given.CalculatorRecipe`, or a torch-sim model.
    device
        torch device for model strings; ``auto``: the project's setting, outside a project a GPU where there is one.

    Examples
    --------
    >>> from ase.build import bulk
    >>> job = SurrogateStaticMaker(potential="chgnet/r2scan").make(bulk("LiCl", "rocksalt", a=5.13))
    """

    name: str = "surrogate static"
    potential: Model = "chgnet/r2scan"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_model_given(self.potential)
        self.potential = storable(self.potential)

    @property
    def protocol(self) -> Protocol:
        """The theory level: the model, and the hash of its weights where it has one."""
        return surrogate_protocol(self.potential)

    def evaluate(self, given: Configuration, asked: Asked, files: JobFolder) -> LabelOutcome:
        """Return the outcome of the potential (loaded once per process) on a configuration."""
        model = as_potential(self.potential, files.device(self.device) if isinstance(self.potential, str) else "cpu")
        return evaluate_configuration(given, model, asked)


def protocol_of(parameters: LabelingParameters) -> Protocol:
    """Return the protocol of the campaign's surrogate."""
    return surrogate_protocol(parameters.surrogate)


def maker_of(parameters: LabelingParameters) -> SurrogateStaticMaker:
    """Return the maker of statics by the campaign's surrogate."""
    return SurrogateStaticMaker(potential=parameters.surrogate)


def check_here(parameters: LabelingParameters, _elements: Iterable[str]) -> None:
    """Raise unless the surrogate's package and weights are here."""
    check_model(parameters.surrogate)


def describe(parameters: LabelingParameters) -> dict[str, Any]:
    """Return the theory level: name, model, hash of the weights."""
    chosen = protocol_of(parameters)
    said = {"protocol": chosen.name, "code": chosen.code, "functional": chosen.functional}
    return said | {"weights_sha256": chosen.settings_hash}


def doctor_rows(
    parameters: LabelingParameters, _elements: list[str], _database: object, severity: Status
) -> Iterator[Check]:
    """Yield the weights of the surrogate, where the campaign labels with one."""
    if severity == "fail":
        model = parameters.surrogate

        def weights() -> str:
            check_model(model)
            return f"{model}, weights {model_hash(model)[:12]}…"

        yield checked("model: surrogate", severity, weights)
