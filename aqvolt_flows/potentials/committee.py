"""A committee: several models of one kind behind one potential, with the spread of their forces.

A committee is a JSON file, ``{"format": "aqvolt-committee/1", "members": [{"model": …, "sha256": …, "release": …}]}``,
and its model string is ``committee:PATH``. Paths of members are relative to the file. Energies, forces and stresses are
the members' means; models that find pairs of the same cutoff in the same way share one neighbor list.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.checkpoints import CheckpointName, parse_name, split_pin
from aqvolt_flows.potentials.registry import (
    Evaluation,
    Potential,
    batches,
    check_elements,
    load_potential,
    model_hash,
)

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

Array = NDArray[np.float64]
FORMAT = "aqvolt-committee/1"
SCHEME = "committee"


@dataclass(frozen=True, eq=False)
class CommitteeEvaluation:
    """What each member says of one system.

    Attributes
    ----------
    energies
        (n_members,), total, eV.
    forces
        (n_members, n_atoms, 3), eV/Å.
    stresses
        (n_members, 6), eV/Å³, ASE sign and order.
    """

    energies: Array
    forces: Array
    stresses: Array

    @property
    def mean(self) -> Evaluation:
        """The members' mean."""
        return Evaluation(float(self.energies.mean()), self.forces.mean(axis=0), self.stresses.mean(axis=0))


def describe_committee(
    members: Sequence[str], folder: str | Path, releases: Sequence[str | None] = (), hashes: Sequence[str] = ()
) -> bytes:
    """Return the file of a committee; equal members give equal bytes, wherever they are.

    Parameters
    ----------
    members
        Model strings; at least two, none twice.
    folder
        Where the file will be; paths inside this folder or beside it are written relative to it.
    releases
        content_hash of what each was trained on, where it is known; they must agree.
    hashes
        SHA-256 of their weights; by default they are computed.

    Raises
    ------
    InputError
        If there are fewer than two members, two are the same model, or they were trained on different releases.
    """
    given = list(releases) or [None] * len(members)
    known = list(hashes) or [model_hash(m) for m in members]
    entries = [
        {"model": _relative(m, Path(folder)), "sha256": h, "release": r}
        for m, h, r in zip(members, known, given, strict=True)
    ]
    entries.sort(key=lambda e: str(e["sha256"]))
    check_members(entries)
    return json.dumps({"format": FORMAT, "members": entries}, indent=1, sort_keys=True).encode()


def check_members(entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`InputError` unless these make a committee; see :func:`describe_committee`."""
    if len(entries) < 2:
        raise InputError(f"A committee of {len(entries)} has no spread; give at least two models.")
    seen = [str(e["sha256"]) for e in entries]
    twice = next((e["model"] for i, e in enumerate(entries) if seen[i] in seen[:i]), None)
    if twice is not None:
        raise InputError(f"{twice} is in the committee twice; its members must be different models, change a seed.")
    trained_on = sorted({str(e["release"]) for e in entries if e.get("release")})
    if len(trained_on) > 1:
        named = ", ".join(h[:12] for h in trained_on)
        raise InputError(
            f"Members of the committee were trained on {len(trained_on)} releases ({named}); their spread would be "
            "that of the data: give models of one release."
        )


def read_committee(path: str | Path) -> list[dict[str, Any]]:
    """Return the members of a committee file, paths made absolute.

    Raises
    ------
    InputError
        If it is no such file, or its members make no committee.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text())
        entries = [dict(e) for e in content["members"]]
        models = [str(e["model"]) for e in entries]
        if content["format"] != FORMAT or not all(isinstance(e["sha256"], str) for e in entries):
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not a committee ({type(error).__name__}: {error}); expected JSON of the format {FORMAT}."
        ) from None
    check_members(entries)
    return [e | {"model": _absolute(m, file.parent)} for e, m in zip(entries, models, strict=True)]


def _relative(model: str, folder: Path) -> str:
    scheme, colon, rest = model.partition(":")
    if not colon or not (place := parse_name(rest)).path.exists():
        return model
    near = Path(os.path.relpath(place.path.resolve(), folder.resolve()))
    return _string(scheme, near.as_posix(), place)


def _absolute(model: str, folder: Path) -> str:
    scheme, colon, rest = model.partition(":")
    if not colon:
        return model
    place = parse_name(rest)
    return _string(scheme, str((folder / place.path).resolve()), place)


def _string(scheme: str, path: str, place: CheckpointName) -> str:
    channel = f"#{place.channel}" if place.channel else ""
    return f"{scheme}:{path}{channel}" + (f"@sha256:{place.sha256}" if place.sha256 else "")


class CommitteePotential:
    """Several loaded potentials as one.

    Parameters
    ----------
    name
        Model string.
    members
        At least two, on one device.

    Raises
    ------
    InputError
        If there are fewer.
    """

    def __init__(self, name: str, members: Sequence[Potential]) -> None:
        if len(members) < 2:
            raise InputError(f"A committee of {len(members)} has no spread; give at least two models.")
        self.name, self.members, self.device = name, list(members), members[0].device
        self._model: Any = None

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that every member knows."""
        return frozenset.intersection(*(m.elements for m in self.members))

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return the members' mean, one a system; see :class:`~aqvolt_flows.potentials.Potential`."""
        return [found.mean for found in self.evaluate_members(systems, max_batch_atoms)]

    def evaluate_members(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[CommitteeEvaluation]:
        """Return what each member says, one a system, in order.

        Raises
        ------
        InputError
            If a member does not know an element of a system.
        """
        import torch
        import torch_sim as ts

        from aqvolt_flows.units import matrix_to_voigt

        check_elements(self, systems)
        model, results = self.torchsim_model(), []
        for group in batches([len(s) for s in systems], max_batch_atoms):
            state = ts.io.atoms_to_state([systems[i] for i in group], device=model.device, dtype=model.dtype)
            out = {k: v.detach().to(torch.float64).cpu().numpy() for k, v in model.each(state).items()}
            stresses = matrix_to_voigt(out["stress"])
            first = 0
            for local, index in enumerate(group):
                last = first + len(systems[index])
                results.append(
                    CommitteeEvaluation(out["energy"][:, local], out["forces"][:, first:last], stresses[:, local])
                )
                first = last
        return results

    def ase_calculator(self) -> Calculator:
        """Return ASE's average of the members' own calculators."""
        from ase.calculators.mixing import AverageCalculator

        average: Any = AverageCalculator([m.ase_calculator() for m in self.members])
        mean: Calculator = average
        return mean

    def calculator(self) -> Calculator:
        """Return :meth:`ase_calculator`."""
        return self.ase_calculator()

    def torchsim_model(self, neighbors: Any = None, max_atoms_per_call: int | None = None) -> Any:
        """Return the members' torch-sim models as one; without arguments always the same."""
        from aqvolt_flows.potentials.committee_torchsim import CommitteeModel

        if neighbors is None and max_atoms_per_call is None:
            self._model = self._model or CommitteeModel([m.torchsim_model() for m in self.members])
            return self._model
        return CommitteeModel([m.torchsim_model(neighbors, max_atoms_per_call) for m in self.members])


def load(model: str, device: str, dtype: str = "float32") -> CommitteePotential:
    """Return the committee of a model string.

    Raises
    ------
    InputError
        If the file is no committee, or a member is not the model that it names.
    """
    path, _ = split_pin(model.removeprefix(f"{SCHEME}:"))
    members = []
    for entry in read_committee(path):
        seen = model_hash(entry["model"])
        if seen != entry["sha256"]:
            raise InputError(
                f"Member {entry['model']} of {path} hashes to {seen[:12]}…, expected {entry['sha256'][:12]}…; restore "
                "its weights."
            )
        members.append(load_potential(entry["model"], device, dtype))
    return CommitteePotential(model, members)
