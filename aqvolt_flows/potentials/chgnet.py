"""CHGNet trained on MP-r2SCAN (Deng et al., Nat. Mach. Intell. 5, 1031 (2023), DOI 10.1038/s42256-023-00716-3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.potentials.registry import Evaluation, batches
from aqvolt_flows.units import gpa_to_ev_per_a3, matrix_to_voigt

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class CHGNetPotential:
    """CHGNet r2SCAN in float32.

    Parameters
    ----------
    name
        Model string, ``chgnet/r2scan``.
    device
        torch device.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device

    @cached_property
    def model(self) -> Any:
        """The loaded ``chgnet.model.CHGNet``."""
        from chgnet.model import CHGNet

        return CHGNet.load(model_name=self.name.split("/")[1], use_device=self.device, verbose=False)

    def torchsim_model(self) -> Any:
        """Raise: CHGNet has no torch-sim model here."""
        raise ResourceError(
            f"Potential {self.name!r} has no torch-sim model; explore with 7net-mf-0/R2SCAN or fairchem:PATH."
        )

    def calculator(self) -> Calculator:
        """Return CHGNet's own ASE calculator."""
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(self.model, use_device=self.device)

    def graphs(self, systems: Sequence[Atoms]) -> list[Any]:
        """Return CHGNet's crystal graphs."""
        from pymatgen.io.ase import AseAtomsAdaptor

        return [self.model.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in systems]

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return one evaluation per system, through CHGNet's batched prediction.

        ``predict_graph`` gives energy per atom (eV), forces (eV/Å) and stress (GPa, tension positive).
        """
        results: list[Evaluation] = []
        for group in batches([len(s) for s in systems], max_batch_atoms):
            chosen = [systems[i] for i in group]
            for atoms, out in zip(chosen, self._predict(chosen), strict=True):
                results.append(
                    Evaluation(
                        energy=float(out["e"]) * len(atoms),
                        forces=np.asarray(out["f"], dtype=float),
                        stress=matrix_to_voigt(np.asarray(out["s"], dtype=float)) * gpa_to_ev_per_a3(1.0),
                    )
                )
        return results

    def _predict(self, systems: Sequence[Atoms]) -> list[dict[str, Any]]:
        out = self.model.predict_graph(self.graphs(systems), task="efs", batch_size=len(systems))
        return out if isinstance(out, list) else [out]


def load(model: str, device: str) -> CHGNetPotential:
    """Return the potential for a model string."""
    return CHGNetPotential(model, device)
