"""The same input gives the same bits, in fresh processes with two threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from aqvolt_flows.dynamics.determinism import deterministic  # noqa: E402

PROGRAM = """
import hashlib, sys, torch
from ase.build import bulk
from aqvolt_flows.dynamics.npt import NpTRun
from aqvolt_flows.dynamics.systems import System
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.schemas.parameters import ExplorationParameters

torch.set_num_threads(2)
atoms = [bulk("Li" + x, "rocksalt", a=a, cubic=True) for x, a in (("F", 4.02), ("Cl", 5.13), ("Br", 5.5), ("I", 6.0))]
systems = [System(str(i), a * (1 + i % 2, 1, 1), 900.0, i) for i, a in enumerate(atoms * 2)]
for potential in sys.argv[1:]:
    model = load_potential(potential, "cpu").torchsim_model()
    found = hashlib.sha256()
    for o in NpTRun(model, systems, ExplorationParameters(n_steps=5, stride=1, timestep_fs=2.0)).run():
        for f in o.frames:
            found.update(f.positions.tobytes() + f.forces.tobytes() + repr(f.energy).encode())
    print(found.hexdigest())
"""


@pytest.mark.slow
def test_three_processes_with_two_threads_give_the_same_bits():
    """Eight cells of eight and sixteen atoms; before sums were put in order, eight runs gave four results."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    found = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, "7net-mf-0/R2SCAN", "chgnet/r2scan"],
            env=environment | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=True, timeout=300,
        ).stdout.splitlines()[-2:]
        for _ in range(3)
    ]  # fmt: skip
    assert len(found[0]) == 2
    assert found[0] == found[1] == found[2]


def test_the_option_asks_torch_for_it_on_a_gpu_only_and_puts_it_back(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert not torch.are_deterministic_algorithms_enabled()
    for device, wanted, expected in (("cuda", True, True), ("cuda", False, False), ("cpu", True, False)):
        with deterministic(wanted, torch.device(device)):
            assert torch.are_deterministic_algorithms_enabled() is expected
        assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
