"""Fine-tuning of an eSEN checkpoint through fairchem: references, scale and task are the checkpoint's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from saved_models import save_esen

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.trainings import FairChemParameters
from aqvolt_flows.trainers import TRAINERS, TrainingTask
from aqvolt_flows.training.curves import curve_table, summary_of
from aqvolt_flows.training.fine_tune_fairchem import checkpoint_of, references_in, shifted, train
from aqvolt_flows.training.references import References

#: Energies of the labels per element (conftest) and those of the checkpoint, eV.
REFERENCES = {3: -1.0, 9: -1.0, 17: -1.0}


@pytest.mark.slow
def test_from_a_checkpoint_to_a_better_one(release: Path, tmp_path: Path):
    (release / "exports/aselmdb/test").symlink_to(release / "exports/aselmdb/val")
    start = save_esen(tmp_path / "start.pt", REFERENCES, scale=0.5)
    path, task = checkpoint_of(start)
    assert task is None
    before = references_in(path, "omat")
    assert before.force_rms == 0.5
    assert [before.element_energies[z] for z in (3, 9, 17)] == [-1.0] * 3
    with pytest.raises(InputError, match="has no energy of the task 'oc20'; its tasks are omat"):
        references_in(path, "oc20")
    parameters = FairChemParameters(start=start, steps=8, max_atoms=24, learning_rate=5e-3, ema_decay=0.5)
    found = TRAINERS["fairchem"].train(TrainingTask(parameters, release, tmp_path / "run", "cpu", start))
    assert found.force_rms == 0.5, "another scale would change what the kept weights predict"
    assert set(found.references) == {"Li", "F", "Cl"}
    start_errors, errors = found.held_out["start"], found.held_out["trained"]
    assert start_errors["energy_per_atom_mae"] > 1.0, "its energies count from other atoms"
    assert errors["energy_per_atom_mae"] < 0.1 * start_errors["energy_per_atom_mae"]
    assert errors["forces_mae"] < start_errors["forces_mae"]
    said = summary_of(curve_table(found.progress))
    assert said["steps"] == 8
    assert set(said["metrics"]) == {"energy_per_atom_mae", "forces_mae", "stress_mae"}
    # Independent: fairchem's own metric of the last weights' average, on the split that is the test split here.
    assert said["metrics"] == pytest.approx(errors, rel=0.02)
    assert train(TrainingTask(parameters, release, tmp_path / "run", "cpu", start)).weights == found.weights


def test_shifts_are_added_to_the_elements_they_are_of():
    references = shifted(References(tuple(np.zeros(100)), 0.5), {3: 1.5, 17: -2.0})
    assert (references.element_energies[3], references.element_energies[17]) == (1.5, -2.0)
    assert sum(map(abs, references.element_energies)) == 3.5
    assert references.force_rms == 0.5


def test_a_start_of_another_family_is_refused():
    with pytest.raises(InputError, match="fairchem trainer cannot start from '7net-mf-0/R2SCAN'; give fairchem:PATH"):
        checkpoint_of("7net-mf-0/R2SCAN")
    assert checkpoint_of("fairchem:/a.pt#omat") == (Path("/a.pt"), "omat")
