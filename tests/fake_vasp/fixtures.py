"""Fixtures of tests that label: a database with frames in it, LiCl as Parquet row and document."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from aqvolt_flows.chemistry import describe
from aqvolt_flows.frames import Frame, write_frames
from aqvolt_flows.schemas.frame import FrameDocument
from aqvolt_flows.stores import Database

StoreFrames = Callable[[Sequence[Frame]], list[str]]


def rock_salt(a: float = 5.13, rattle: float = 0.0, seed: int = 0, cubic: bool = False) -> Frame:
    """LiCl in rock salt; a in Å (5.13 Å is the experimental lattice constant)."""
    if cubic:
        cell = np.eye(3) * a
        halves = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
        fractional = np.stack([halves, (halves + 0.5) % 1], axis=1).reshape(-1, 3)
        numbers = np.tile([3, 17], 4)
    else:
        cell = a / 2 * (np.ones((3, 3)) - np.eye(3))
        fractional, numbers = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([3, 17])
    positions = fractional @ cell + rattle * np.random.default_rng(seed).normal(size=(len(numbers), 3))
    return Frame(
        trajectory_id="traj-test",
        step=0,
        temperature=300.0,
        energy=0.0,
        atomic_numbers=numbers.astype(np.int16),
        positions=positions.astype(np.float32),
        cell=cell.astype(np.float32),
        forces=np.zeros((len(numbers), 3), np.float32),
        stress=np.zeros(6, np.float32),
    )


def store_frames_in(database: Database, folder: Path, frames: Sequence[Frame]) -> list[str]:
    """Write frames as the sampling stage does and return their identities."""
    path = folder / "frames.parquet"
    write_frames(path, frames)
    artifact = database.artifacts.put_file(path, "parquet")
    documents = []
    for row, frame in enumerate(frames):
        symbols = frame.to_atoms().get_chemical_symbols()
        identity = f"frame-{artifact.sha256[:12]}-{row}"
        documents.append(
            FrameDocument.model_validate(
                {
                    "frame_id": identity,
                    "key": identity,
                    "trajectory_id": frame.trajectory_id,
                    "candidate_id": "cand-test",
                    "sample_key": "sample-test",
                    "step": frame.step,
                    "temperature_k": 300.0,
                    "artifact": artifact,
                    "row": row,
                    "surrogate_energy": frame.energy,
                    "surrogate_max_force": frame.max_force,
                    "structure_cluster": 0,
                    "structure_distance": 0.0,
                    "atom_clusters": [],
                    **describe(symbols),
                }
            )
        )
    database.upsert("frames", documents)
    return [d.frame_id for d in documents]


@pytest.fixture
def store_frames(database: Database, tmp_path: Path) -> StoreFrames:
    """Store frames and return their identities."""
    return lambda frames: store_frames_in(database, tmp_path, frames)


#: What pymatgen says of POTCARs that no one licensed, and of runs that were told not to converge.
VASP_WARNINGS = (
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.outputs.UnconvergedVASPWarning"),
)
ELEMENTS = ["Li", "Na", "F", "Cl", "Br", "I", "Y"]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Configure the stand-in VASP and its POTCARs; call it with rules to make runs fail."""
    from pymatgen.core import SETTINGS

    from fake_vasp.potcars import write_potcars

    monkeypatch.setenv("VASP_CMD", f"{sys.executable} {Path(__file__).with_name('vasp_std.py')}")
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(write_potcars(tmp_path / "potcars", ELEMENTS)))
    monkeypatch.delenv("FAKE_VASP_PLAN", raising=False)

    def plan(*rules: dict[str, object], seed: int = 0) -> None:
        path = tmp_path / "fake_vasp_plan.json"
        path.write_text(json.dumps({"seed": seed, "rules": rules}))
        monkeypatch.setenv("FAKE_VASP_PLAN", str(path))

    return plan
