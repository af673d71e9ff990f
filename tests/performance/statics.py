"""What a static costs beside VASP: the stand-in alone, atomate2's stock maker, ours. One process, warm imports.

``python tests/performance/statics.py [-n 20] [--stock 2] [--atoms 8]``; prints one table. The stock maker looks whether
VASP has ended every 10 s (custodian's default), so that it is run ``--stock`` times only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=20, help="Statics of each kind but the stock maker's.")
    parser.add_argument("--stock", type=int, default=2, help="Statics of atomate2's stock maker.")
    parser.add_argument("--repeat", type=int, default=1, help="The cell of 8 atoms is repeated so often on each axis.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        measure(Path(scratch), options.n, options.stock, options.repeat)


def measure(scratch: Path, n: int, n_stock: int, repeat: int) -> None:
    from fake_vasp.fixtures import rock_salt
    from fake_vasp.potcars import write_potcars
    from pymatgen.core import SETTINGS

    SETTINGS["PMG_VASP_PSP_DIR"] = str(write_potcars(scratch / "potcars", ["Li", "Cl"]))
    command = f"{sys.executable} {Path(__file__).parents[1] / 'fake_vasp' / 'vasp_std.py'}"
    os.environ["VASP_CMD"] = command
    started = time.perf_counter()
    from atomate2.vasp.jobs.matpes import MatPesMetaGGAStaticMaker

    from aqvolt_flows.artifacts import ArtifactStore
    from aqvolt_flows.labeling.vasp import R2scanStaticMaker
    from aqvolt_flows.vasp.inputs import matpes_static_set, sorted_with_order
    from aqvolt_flows.vasp.settings import r2scan_protocol

    imports = time.perf_counter() - started
    frame = rock_salt(5.13, rattle=0.05, cubic=True)
    if repeat > 1:
        frame = repeated(frame, repeat)
    structure, _ = sorted_with_order(frame.to_structure())
    database = SimpleNamespace(artifacts=ArtifactStore(scratch / "artifacts"))
    protocol = r2scan_protocol()

    def alone(folder: Path) -> None:
        matpes_static_set().get_input_set(structure).write_input(str(folder))
        begun = time.perf_counter()
        subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)
        alone_seconds.append(time.perf_counter() - begun)

    def stock(folder: Path, **custodian: float) -> None:
        starts = {"vasp_cmd": command, "vasp_gamma_cmd": command, "custodian_kwargs": custodian}
        maker = MatPesMetaGGAStaticMaker(run_vasp_kwargs=starts)
        type(maker).make.original(maker, structure)

    def hurried(folder: Path) -> None:
        stock(folder, polling_time_step=0.1, monitor_freq=3000)

    def ours(folder: Path) -> None:
        outcome = R2scanStaticMaker().run(database, frame, "frame", "0" * 24, protocol)
        assert outcome.status == "converged", outcome.failure

    alone_seconds: list[float] = []
    times(alone, n)
    base = statistics.median(alone_seconds)
    rows = [("stand-in VASP alone", n, base), ("ours", n, statistics.median(times(ours, n)))]
    rows.append(("atomate2's maker, a look each 0.1 s", n, statistics.median(times(hurried, n))))
    if n_stock:
        rows.append(("atomate2's maker as it comes", n_stock, statistics.median(times(stock, n_stock))))
    print(f"{frame.n_atoms} atoms, {os.cpu_count()} cores; imports of a new worker: {imports:.1f} s")
    print(f"{'':36} {'runs':>5} {'median s':>9} {'beside VASP, s':>15} {'ratio to ours':>14}")
    own = rows[1][2] - base
    for name, runs, seconds in rows:
        extra = seconds - base
        print(f"{name:36} {runs:5d} {seconds:9.3f} {extra:15.3f} {extra / own:14.2f}")


def repeated(frame, repeat: int):
    """Return the frame's cell repeated on each axis."""
    from dataclasses import replace

    import numpy as np

    atoms = frame.to_atoms().repeat((repeat, repeat, repeat))
    return replace(
        frame,
        atomic_numbers=atoms.numbers.astype(np.int16),
        positions=atoms.positions.astype(np.float32),
        cell=atoms.cell.array.astype(np.float32),
    )


def times(run: Callable[[Path], None], n: int) -> list[float]:
    """Return the seconds of ``n`` runs after a first one that is not counted, each in a folder of its own."""
    seconds = []
    for number in range(n + 1):
        folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
        with contextlib.chdir(folder):
            begun = time.perf_counter()
            run(folder)
            if number:
                seconds.append(time.perf_counter() - begun)
        shutil.rmtree(folder)
    return seconds


if __name__ == "__main__":
    main()
