"""The fused convolution against the plain one: in Triton's interpreter everywhere, on a GPU where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

HERE = Path(__file__).parent
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_it_is_the_plain_convolution_with_its_gradients(device):
    """Pairs that fill the list up hold NaN here, and nothing of them arrives anywhere."""
    mode = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    done = subprocess.run(
        [sys.executable, str(HERE / "fused_check.py"), device],
        env=os.environ | mode | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])
    assert len(cases) == 4
    for case in cases:
        assert case.pop("same_bits") == 1
        # sums of some 20 products of order 1 in single precision
        assert max(case.values()) < 3e-5, case


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_recorded_evaluation_is_the_plain_one():
    import torch_sim as ts
    from ase.build import bulk

    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.potentials.replay import WARM_CALLS

    model = load_potential("7net-mf-0/R2SCAN", "cuda").torchsim_model()
    atoms = bulk("LiCl", "rocksalt", a=5.13, cubic=True)
    for step in range(WARM_CALLS + 4):
        atoms.rattle(0.03, seed=step)
        state = ts.io.atoms_to_state([atoms] * 3, device=model.device, dtype=model.dtype)
        model.accelerated = True
        fast = {name: value.clone() for name, value in model(state).items()}
        model.accelerated = False
        for name, value in model(state).items():
            torch.testing.assert_close(fast[name], value, rtol=1e-5, atol=1e-5)
    assert model._replay._recorded is not None
