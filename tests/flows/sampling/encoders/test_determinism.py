"""The same frames give the same bits in three processes of their own, with two threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from saved_models import save_esen, save_m3gnet

#: 8 cells of 8 atoms: large enough that torch divides its work among threads (more than 32,768 numbers).
CODE = """
import hashlib, warnings
warnings.simplefilter("ignore")
import torch
from ase.build import bulk
from aqvolt_flows.sampling.encoders import load_encoder
torch.set_num_threads(2)
frames = []
for seed in range(8):
    frames.append(bulk("LiCl", "rocksalt", a=5.1 + 0.01 * seed, cubic=True))
    frames[-1].rattle(0.1, seed=seed)
for name in NAMES:
    encoder = load_encoder(name)
    for _ in range(2):  # in one process too, also after other batches
        found = encoder.encode(frames)
        print(hashlib.sha256(found.structures.tobytes() + found.atoms.tobytes()).hexdigest(), len(found.failures))
        encoder.encode(frames[:3])
"""


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return ["chgnet/r2scan", save_m3gnet(folder / "m3gnet", intensive=True), save_esen(folder / "inference_ckpt.pt")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*lightning.*")
def test_the_same_frames_give_the_same_bits(names):
    code = f"NAMES = {names!r}\n" + CODE
    # threads that wait passively do not keep the others of a busy machine from work
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)  # beside each other: threads then take turns differently in each
    ]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    found = [out.splitlines()[-2 * len(names) :] for out in said]
    assert found[0] == found[1] == found[2]
    lines = [line.split() for line in found[0]]
    assert all(failures == "0" for _, failures in lines)
    hashes = [digest for digest, _ in lines]
    assert hashes[::2] == hashes[1::2], "in one process"
    assert len(set(hashes)) == len(names)
