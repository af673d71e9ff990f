"""What fine-tunings share: data of a release, the starting model, the comparison on the test split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import check_elements, load_potential
from aqvolt_flows.schemas.trainings import FineTuneParameters
from aqvolt_flows.training.data import Split, open_split
from aqvolt_flows.training.records import Errors

#: Frames that are in memory at once while errors are summed up.
CHUNK = 256


def frames_of(folder: Path) -> Iterator[Any]:
    """Yield a folder's labeled structures, in order, as ASE Atoms with labels and ``info["frame_id"]``."""
    import ase.db
    import ase_db_backends  # noqa: F401  (registers the backend "aselmdb")

    connect: Any = ase.db.connect
    for file in sorted(folder.glob("*.aselmdb")):
        with connect(str(file), type="aselmdb", readonly=True) as database:
            for row in database.select():
                atoms = row.toatoms()
                atoms.info["frame_id"] = str(row.data.get("frame_id") or row.data.get("sid") or f"row {row.id}")
                yield atoms


def splits_for(release: Path, max_atoms: int | None = None) -> tuple[Split, Split, str]:
    """Return training and validation split, and which split is validated on.

    Raises
    ------
    InputError
        If there is nothing to train on, or a structure is larger than a batch.
    ResourceError
        If there is no ASE-LMDB.
    """
    train, val = open_split(release, "train"), open_split(release, "val")
    if not len(train):
        raise InputError(f"The release {release.name} has an empty training split; make one with more labels.")
    biggest = max(int(split.natoms.max()) for split in (train, val) if len(split))
    if max_atoms is not None and biggest > max_atoms:
        raise InputError(
            f"The release {release.name} has a structure of {biggest} atoms, above max_atoms = {max_atoms}; raise "
            f"max_atoms to at least {biggest}."
        )
    return (train, val, "val") if len(val) else (train, train, "train")


def steps_of(parameters: FineTuneParameters, n_batches: int) -> int:
    """Return the optimizer steps of a fine-tuning whose epochs have this many batches."""
    return parameters.steps or int(parameters.epochs or 1) * n_batches


def compare_held_out(release: Path, start: str | None, trained: str, device: str) -> dict[str, Any]:
    """Return the errors of the starting and the trained model on the test split, which training did not see.

    Returns
    -------
    dict
        See :attr:`aqvolt_flows.trainers.Trained.held_out`; empty where the release has no test split.
    """
    split = open_split(release, "test")
    if not len(split):
        return {}
    said: dict[str, Any] = {"split": "test", "n": len(split)}
    for name, model in (("start", start), ("trained", trained)):
        if model is not None:
            said[name] = errors_on(split, model, device)
    return said


def errors_on(split: Split, model: str, device: str) -> dict[str, float]:
    """Return the mean absolute errors of a model on a split, through our own potentials."""
    potential, errors = load_potential(model, device), Errors()
    for frames in _chunks(frames_of(split.folder)):
        for found, frame in zip(potential.evaluate(frames), frames, strict=True):
            errors.add(found.energy, found.forces, found.stress, frame)
    return errors.metrics()


def residuals_of(split: Split, model: str, device: str, limit: int) -> tuple[list[Any], list[float]]:
    """Return atomic numbers, and label minus model in eV, of evenly spaced structures of a split.

    Raises
    ------
    InputError
        If the model does not know an element of the data.
    """
    potential = load_potential(model, device)
    every = max(1, -(-len(split) // limit))
    numbers: list[Any] = []
    residuals: list[float] = []
    for frames in _chunks(f for i, f in enumerate(frames_of(split.folder)) if i % every == 0):
        check_elements(potential, frames)
        for found, frame in zip(potential.evaluate(frames), frames, strict=True):
            numbers.append(frame.numbers)
            residuals.append(float(frame.calc.results["energy"]) - found.energy)
    return numbers, residuals


def _chunks(frames: Iterator[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
