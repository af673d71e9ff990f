"""Models with random weights, saved as their own packages save them; encoders take them by path."""

from __future__ import annotations

from pathlib import Path

import pytest

ELEMENTS = ("Li", "F", "Cl", "I", "Y")


def save_m3gnet(folder: Path, intensive: bool, elements: tuple[str, ...] = ELEMENTS) -> str:
    """Save an M3GNet with random weights as matgl does: one of a property, or a potential."""
    pytest.importorskip("matgl")
    import torch
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    torch.manual_seed(0)
    shape = {"readout_type": "set2set"} if intensive else {}
    net = M3GNet(element_types=elements, is_intensive=intensive, **shape)
    (net if intensive else Potential(net)).save(folder)
    return f"m3gnet:{folder}"


def save_esen(path: Path, references: dict[int, float] | None = None, scale: float = 1.0, task: str = "") -> str:
    """Save a conservative eSEN with random weights, of the shape that our second stage trains.

    ``references`` are energies per element in eV, ``scale`` is what targets are scaled by; a second
    ``task`` may be added.
    """
    import hydra
    import torch
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    from aqvolt_flows.identity import file_sha256
    from aqvolt_flows.schemas.parameters import TrainingParameters
    from aqvolt_flows.training.esen import _direct_model, tasks
    from aqvolt_flows.training.references import MAX_ELEMENTS, References

    small = {"n_layers": 1, "sphere_channels": 8, "hidden_channels": 8, "n_distance_basis": 8, "cutoff_a": 5.0}
    parameters = TrainingParameters(**small)
    model = _direct_model(parameters)
    model["backbone"] |= {"direct_forces": False, "regress_forces": True, "regress_stress": True}
    model |= {"pass_through_head_outputs": True}
    model["heads"] = {"energy": {"module": model["heads"]["energy"]["module"]}}
    torch.manual_seed(0)
    net = hydra.utils.instantiate(model)
    energies = tuple((references or {}).get(z, 0.0) for z in range(MAX_ELEMENTS))
    tasks_config = tasks("conservative", parameters, References(energies, scale))
    if task:
        model["backbone"]["dataset_mapping"][task] = task
        tasks_config = [t | {"datasets": [*t["datasets"], task]} for t in tasks_config]
        net = hydra.utils.instantiate(model)
    averaged = torch.optim.swa_utils.AveragedModel(net).state_dict()
    torch.save(MLIPInferenceCheckpoint(model, net.state_dict(), averaged, tasks_config), path)
    return f"fairchem:{path}@sha256:{file_sha256(path)}"
