"""What makers share that run many structures with one potential in a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jobflow import Maker

from aqvolt_flows.jobs import typed
from aqvolt_flows.potentials import Potential, check_physics
from aqvolt_flows.potentials.given import Model, as_potential, resolve_device, storable


@dataclass
class PotentialMaker(Maker):
    """Base of makers with a potential and a group of parameters that names another one.

    A subclass declares ``parameters`` with its type, and names that type in ``kind``.
    """

    kind: ClassVar[type[Any]]
    name: str = field(default="structures", kw_only=True)
    potential: Model | None = None
    parameters: Any = None
    device: str = "auto"

    def __post_init__(self) -> None:
        self.potential = storable(self.potential)
        self.parameters = typed(self.parameters, self.kind)

    @property
    def model(self) -> Model:
        """The model that is used."""
        return self.parameters.potential if self.potential is None else self.potential

    def load(self) -> Potential:
        """Return the potential; that of a model string has passed the check of its physics.

        Raises
        ------
        InputError, ResourceError
            If it is no model, or cannot be loaded.
        """
        potential = as_potential(self.model, resolve_device(self.device))
        if isinstance(self.model, str):
            check_physics(potential)
        return potential
