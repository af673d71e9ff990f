"""MACE, trained by ``mace-torch`` in an environment of its own, as a process with its own interpreter.

mace-torch pins e3nn 0.4.4 and so cannot be installed beside SevenNet and fairchem. The process is
``PYTHON -m mace.cli.run_train --OPTION=VALUE …``; the data are handed over as extended XYZ with total energies in eV
(``REF_energy``), forces in eV/Å (``REF_forces``) and stresses in eV/Å³ (``REF_stress``, nine numbers, ASE's sign). The
energies per element go along as ``--E0s``. What mace reports is read from ``results/*_train.txt``, one JSON object a
line, and becomes ``progress.jsonl``. The test split is evaluated by ``mace.cli.eval_configs`` of the same environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.trainings import MaceParameters
from aqvolt_flows.trainers import Trained, TrainingTask
from aqvolt_flows.training.data import open_split
from aqvolt_flows.training.fine_tune import frames_of, splits_for
from aqvolt_flows.training.process import run_process
from aqvolt_flows.training.records import Errors, Recorder, fit_shifts, versions_of
from aqvolt_flows.training.stages import OFFLINE, PROGRESS, TrainingError

PARAMETERS = MaceParameters
NAME = "aqvolt"
WEIGHTS = Path("models") / f"{NAME}.model"
#: Packages of the other environment that a model's document names.
_ASKED = ("mace-torch", "torch", "e3nn", "ase", "numpy")
_PROBE = (
    "import json, importlib.metadata as m\n"
    "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
    f"print(json.dumps({{k: v for k, v in found.items() if k in {_ASKED!r}}}))"
)
PROBE_TIMEOUT_S = 120


def architecture_of(parameters: MaceParameters) -> str:
    """Return what documents call the network."""
    return f"MACE {Path(parameters.start).name} fine-tuned" if parameters.start else "MACE"


def check_here(parameters: MaceParameters) -> None:
    """Raise unless the interpreter runs here and has mace-torch.

    Raises
    ------
    ResourceError
        One sentence that says what is missing and what to do.
    """
    versions_there(parameters.python)


def versions_there(python: str) -> dict[str, str]:
    """Return the versions of the packages in the other environment.

    Raises
    ------
    ResourceError
        If the interpreter does not run, or has no mace-torch.
    """
    advice = "make the environment with 'python -m venv ENV && ENV/bin/pip install mace-torch'"
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
        found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1]) if done.returncode == 0 else {}
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise ResourceError(f"The interpreter {python} does not run ({error}); {advice}.") from None
    if "mace-torch" not in found:
        said = " ".join(done.stderr.split())[-200:]
        raise ResourceError(f"The interpreter {python} has no mace-torch{f' ({said})' if said else ''}; {advice}.")
    return found


def write_extxyz(folder: Path, target: Path) -> int:
    """Write the labeled structures of a folder of ASE-LMDB as extended XYZ for mace, and return how many there are."""
    from ase.io.extxyz import write_extxyz as write

    if target.is_file():
        return sum(1 for _ in frames_of(folder))
    count = 0
    with written_aside(target) as aside, aside.open("w") as handle:
        for frame in frames_of(folder):
            atoms: Any = frame.copy()  # its info is replaced: mace reads what it finds there
            there = frame.calc.results
            atoms.info = {"REF_energy": float(there["energy"])}
            if there.get("stress") is not None:
                atoms.info["REF_stress"] = frame.get_stress(voigt=False).reshape(9)
            atoms.arrays["REF_forces"] = there["forces"]
            write(handle, [atoms], write_results=False)
            count += 1
    return count


def isolated_energies(folder: Path) -> dict[int, float]:
    """Return least-squares energies per element of a training split, eV: mace's ``E0s``."""
    numbers, energies = [], []
    for frame in frames_of(folder):
        numbers.append(frame.numbers)
        energies.append(float(frame.calc.results["energy"]))
    return fit_shifts(numbers, energies)


def command_of(p: MaceParameters, device: str, references: Mapping[int, float]) -> list[str]:
    """Return the command line; paths are relative to the run folder."""
    options: dict[str, Any] = {
        "name": NAME,
        "work_dir": ".",
        "model_dir": str(WEIGHTS.parent),
        "train_file": "train.xyz",
        "valid_file": "val.xyz",
        "E0s": "estimated" if p.start else str(dict(references)),
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "stress_key": "REF_stress",
        "compute_stress": True,
        "loss": "stress",
        "energy_weight": p.energy_coefficient,
        "forces_weight": p.force_coefficient,
        "stress_weight": p.stress_coefficient,
        "error_table": "PerAtomMAEstressvirials",
        "model": "MACE",
        "max_num_epochs": p.epochs,
        "batch_size": p.batch_size,
        "valid_batch_size": p.batch_size,
        "eval_interval": 1,
        "lr": p.learning_rate,
        "default_dtype": p.dtype,
        "device": device.partition(":")[0],
        "seed": p.seed,
        "plot": False,
    }
    if p.start:
        options |= {"foundation_model": p.start, "multiheads_finetuning": False}
    options |= p.options
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [p.python, "-m", "mace.cli.run_train", *flags, "--restart_latest", "--save_cpu"]


def train(task: TrainingTask) -> Trained:
    """Train in ``task.workdir``; a killed run resumes from mace's newest checkpoint."""
    p: MaceParameters = task.parameters
    versions = versions_there(p.python)
    train_split, val_split, validated_on = splits_for(task.release)
    folder = task.workdir
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in ((train_split, "train"), (val_split, "val")):
        write_extxyz(split.folder, folder / f"{name}.xyz")
    references = isolated_energies(train_split.folder)
    said = p.model_dump(mode="json", exclude={"python"})  # another path of the same environment is no other training
    given = {"train": str(train_split.folder), "val": str(val_split.folder), "parameters": said}
    index = task.device.partition(":")[2]
    environment = {"CUDA_VISIBLE_DEVICES": index} if index else {}
    command = command_of(p, task.device, references)
    n_atoms = [int(n) for n in train_split.natoms]
    progress = run_process(
        command,
        folder,
        given,
        folder / WEIGHTS,
        environment,
        lambda: translate(folder, sum(n_atoms) / len(n_atoms)),
    )
    return Trained(
        folder / WEIGHTS,
        progress,
        validated_on=validated_on,
        references={} if p.start else {chemical_symbols[z]: e for z, e in references.items()},
        held_out=held_out(task, p, environment),
        versions=versions | versions_of(("aqvolt-flows",)),
    )


def results_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield mace's records; those of epochs that a resumed run computed again come once, the last time."""
    records: list[dict[str, Any]] = []
    begins = False
    for file in sorted((folder / "results").glob(f"{NAME}_run-*_train.txt")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            epoch = record.get("epoch")
            if epoch is None:  # every start evaluates once before it trains
                begins = True
                records = records or [record]
                continue
            if begins:
                records = [r for r in records if r.get("epoch") is None or r["epoch"] < epoch]
                begins = False
            records.append(record)
    yield from records


def translate(folder: Path, atoms_per_structure: float) -> None:
    """Append mace's records to ``progress.jsonl`` in our form.

    mace reports the loss of each optimizer step and the errors on the validation split after each epoch; it reports no
    learning rate, gradient norm or memory.

    Raises
    ------
    TrainingError
        If it left no record of a training.
    """
    record, step = Recorder(folder / PROGRESS), 0
    given = json.loads((folder / "config.json").read_text())["parameters"]
    per_step = given["batch_size"] * atoms_per_structure
    record.write("start", 0, ranks=1, accumulation=1, atoms_per_step_limit=None)
    for found in results_of(folder):
        if found.get("mode") == "opt":
            step += 1
            took = float(found.get("time") or 0.0)
            record.write(
                "train",
                step,
                epoch=int(found["epoch"]) + 1,
                loss=found.get("loss"),
                losses={},
                learning_rate=None,
                gradient_norm=None,
                atoms=per_step,
                atoms_per_s=per_step / took if took else None,
                data_wait_share=None,
                memory_gib=None,
                skipped=0,
            )
        elif found.get("mode") == "eval":
            names = {"energy_per_atom_mae": "mae_e_per_atom", "forces_mae": "mae_f", "stress_mae": "mae_stress"}
            metrics = {ours: found[theirs] for ours, theirs in names.items() if found.get(theirs) is not None}
            record.write("eval", step, metrics=metrics, sources={}, loss=found.get("loss"))
    if step == 0:
        raise TrainingError(
            f"mace in {folder} left no record of an optimizer step in results/; see its log, and the version that "
            "'mace_run_train --version' prints."
        )
    record.write("end", step)


def held_out(task: TrainingTask, p: MaceParameters, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the trained model's errors on the test split, evaluated by the other environment; {} without one."""
    split = open_split(task.release, "test")
    if not len(split):
        return {}
    from ase.io import iread

    folder = task.workdir
    write_extxyz(split.folder, folder / "test.xyz")
    options = {
        "configs": "test.xyz",
        "model": str(WEIGHTS),
        "output": "predicted.xyz",
        "device": task.device.partition(":")[0],
        "default_dtype": p.dtype,
        "batch_size": p.batch_size,
        "info_prefix": "MACE_",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [p.python, "-m", "mace.cli.eval_configs", *flags, "--compute_stress"],
        cwd=folder,
        env={**os.environ, **OFFLINE, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise TrainingError(
            f"mace could not evaluate the test split in {folder} (code {done.returncode}): {done.stderr[-500:]}"
        )
    errors = Errors()
    predicted: Any = iread(folder / "predicted.xyz", ":")
    for frame, found in zip(frames_of(split.folder), predicted, strict=True):
        full = found.info["MACE_stress"].reshape(3, 3)
        stress = full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        errors.add(float(found.info["MACE_energy"]), found.arrays["MACE_forces"], stress, frame)
    return {"split": "test", "n": len(split), "trained": errors.metrics()}
