"""The maker of batched relaxations, for any script: no project, no database, no settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.dynamics.potential_maker import PotentialMaker
from aqvolt_flows.dynamics.relax import Relaxed, torchsim_relaxer
from aqvolt_flows.jobs import LATER, science_job
from aqvolt_flows.potentials import Potential
from aqvolt_flows.potentials.given import (
    check_model_given,
    given_hash,
    model_name,
    trial_failure,
)
from aqvolt_flows.schemas.dynamics import RelaxDocument, RelaxedStructure
from aqvolt_flows.schemas.generation import RelaxationParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.structures import to_atoms, to_structures


def _check(maker: RelaxMaker, structures: Any) -> None:
    check_model_given(maker.model)
    if structures is not LATER:
        to_structures(structures)


@dataclass
class RelaxMaker(PotentialMaker):
    """Relax positions and cells of structures with FIRE and a Fréchet cell filter, many of them in one batch.

    Parameters
    ----------
    name
        Name of the job.
    potential
        Model string, ASE calculator, :class:`~aqvolt_flows.potentials.given.CalculatorRecipe` or torch-sim model;
        None: that of the parameters. Energy, forces and stress are needed.
    parameters
        Tolerance, steps, limits; a dict of their values is read.
    device
        torch device for model strings; ``auto``: a GPU where there is one.
    """

    kind = RelaxationParameters
    name: str = field(default="relax structures", kw_only=True)
    parameters: RelaxationParameters = field(default_factory=RelaxationParameters)

    @science_job(RelaxDocument, check=_check)
    def make(self, structures: Any) -> RelaxDocument:
        """Relax structures; one that cannot be relaxed is an entry with a failure.

        Parameters
        ----------
        structures
            pymatgen Structures or ASE Atoms, one or a list, or references to them.

        Raises
        ------
        InputError, ResourceError
            If an argument is none of these, or the model cannot be loaded.
        """
        potential = self.load()
        found = relax_structures(potential, to_structures(structures), self.parameters)
        return RelaxDocument(
            model=model_name(self.model),
            model_hash=given_hash(self.model),
            relaxed=[_document(r) for r in found],
            structures=[r.structure for r in found],
        )


def relax_structures(
    potential: Potential,
    structures: Sequence[Structure],
    parameters: RelaxationParameters,
    fixed_cell: bool = False,
) -> list[Relaxed]:
    """Relax structures, those that the potential knows; the others fail by ``unsupported_element`` or ``model_error``.

    Parameters
    ----------
    potential
        Loaded.
    structures
        Any number.
    parameters
        Force tolerance, steps, limits.
    fixed_cell
        Relax positions only.
    """
    refused = {i: why for i, s in enumerate(structures) if (why := _refusal(potential, s))}
    fit = [i for i in range(len(structures)) if i not in refused]
    plain = [structures[i].copy(site_properties={}) for i in fit]
    relaxed = dict(zip(fit, torchsim_relaxer(potential, parameters, fixed_cell)(plain), strict=True)) if fit else {}
    nan = float("nan")
    return [relaxed.get(i) or Relaxed(s, nan, nan, nan, refused[i]) for i, s in enumerate(structures)]


def _refusal(potential: Potential, structure: Structure) -> Failure | None:
    atoms = to_atoms(structure)
    unknown = {int(z) for z in atoms.numbers} - potential.elements
    if unknown:
        names = ", ".join(symbols_of(sorted(unknown)))
        return Failure(reason="unsupported_element", message=f"{potential.name} has no parameters for {names}")
    return trial_failure(potential, atoms)


def _document(relaxed: Relaxed) -> RelaxedStructure:
    numbers = {name: getattr(relaxed, name) for name in ("energy", "max_force", "max_stress")}
    return RelaxedStructure(
        structure=relaxed.structure,
        converged=relaxed.converged,
        failure=relaxed.failure,
        **{name: float(value) if np.isfinite(value) else None for name, value in numbers.items()},
    )
