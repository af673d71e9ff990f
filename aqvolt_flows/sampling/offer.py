"""What ``DirectMaker`` chooses from: documents of NpT MD, or structures; read block by block, found again by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.dynamics import NpTMDDocument, NpTTrajectory
from aqvolt_flows.schemas.parameters import SamplingParameters
from aqvolt_flows.structures import to_structures

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from aqvolt_flows.frames import Frame
    from aqvolt_flows.sampling.features.screen import Block

#: Frames that are screened and encoded at a time.
_BLOCK_ROWS = 256
_EXPECTED = "expected the output of NpTMDMaker, a list of them, or pymatgen Structures or ASE Atoms"


@dataclass(frozen=True, eq=False)
class Offer:
    """Structures, or trajectories of documents; one of the two is empty.

    Attributes
    ----------
    structures
        As given.
    trajectories
        (document, trajectory within it) → the trajectory.
    """

    structures: list[Structure]
    trajectories: dict[tuple[int, int], NpTTrajectory]

    @classmethod
    def of(cls, given: Any) -> Offer:
        """Return what was given, checked.

        Raises
        ------
        InputError
            If it is something else, empty, or documents are mixed with structures.
        """
        items = [given] if _is_document(given) or not _is_list(given) else list(given)
        documents = [_is_document(item) for item in items]
        if not any(documents):
            try:
                return cls(to_structures(given, "structures to choose from"), {})
            except InputError as error:
                raise InputError(f"{error} DirectMaker {_EXPECTED}.") from None
        if not all(documents):
            raise InputError(f"MD documents and structures were given in one list; {_EXPECTED}, not both.")
        found = [_document(item) for item in items]
        return cls([], {(d, t): run for d, one in enumerate(found) for t, run in enumerate(one.trajectories)})

    def blocks(
        self, parameters: SamplingParameters
    ) -> Iterator[tuple[str, float | None, Iterator[tuple[NDArray[np.int64], Block]]]]:
        """Yield name, volume per atom of the first frame, and row numbers with blocks, source after source.

        Parameters
        ----------
        parameters
            Every ``encode_stride``-th frame of a trajectory is read, without its equilibration unless that is asked
            for; structures are all read.
        """
        from aqvolt_flows.sampling.features.screen import volume_per_atom

        if self.structures:
            yield "structures", None, _structure_blocks(self.structures)  # no frame of one run: volumes may differ
        for (d, t), run in self.trajectories.items():
            if run.frames is not None and run.n_frames:
                first = next(_trajectory_blocks(run, run.n_frames, 0))[1]
                start = parameters.first_row(run.n_equilibration_frames)
                yield f"{d}/{t}", volume_per_atom(first), _trajectory_blocks(run, parameters.encode_stride, start)

    def find(self, name: str, rows: Iterable[int]) -> list[tuple[Structure, Frame | None]]:
        """Return structures at some rows of a source, with their frames where they have one."""
        from aqvolt_flows.sampling.chosen import frames_at

        if name == "structures":
            return [(self.structures[i], None) for i in rows]
        run, wanted = self.trajectory(name), np.array(sorted(rows), np.int64)
        if run.frames is not None and run.frames.columns is not None:
            frames = run.to_frames()
            return [(frames[i].to_structure(), frames[i]) for i in wanted]
        return [(frame.to_structure(), frame) for frame in frames_at(run.frames_path(), wanted)]

    def trajectory(self, name: str) -> NpTTrajectory:
        """Return a trajectory by the name that :meth:`blocks` gives it."""
        document, trajectory = name.split("/")
        return self.trajectories[int(document), int(trajectory)]


def _is_list(given: Any) -> bool:
    return isinstance(given, list | tuple)


def _is_document(given: Any) -> bool:
    return isinstance(given, NpTMDDocument) or (isinstance(given, Mapping) and "trajectories" in given)


def _document(given: Any) -> NpTMDDocument:
    if isinstance(given, NpTMDDocument):
        return given
    try:
        return NpTMDDocument(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"The MD document is not one that NpTMDMaker wrote ({where}: {first['msg']}).") from None


def _structure_blocks(structures: list[Structure]) -> Iterator[tuple[NDArray[np.int64], Block]]:
    """Yield structures as blocks of frames without energies and forces: those are zero."""
    from aqvolt_flows.sampling.features.screen import Block

    for start in range(0, len(structures), _BLOCK_ROWS):
        part = structures[start : start + _BLOCK_ROWS]
        positions = np.concatenate([np.asarray(s.cart_coords, float).reshape(-1, 3) for s in part])
        yield (
            np.arange(start, start + len(part), dtype=np.int64),
            Block(
                steps=np.zeros(len(part), np.int64),
                energies=np.zeros(len(part)),
                numbers=np.concatenate([np.asarray(s.atomic_numbers, np.int64) for s in part]),
                positions=positions,
                forces=np.zeros_like(positions),
                cells=np.stack([np.asarray(s.lattice.matrix, float) for s in part]),
                offsets=np.concatenate([[0], np.cumsum([len(s) for s in part])]).astype(np.int64),
            ),
        )


def _trajectory_blocks(run: NpTTrajectory, stride: int, start: int) -> Iterator[tuple[NDArray[np.int64], Block]]:
    from aqvolt_flows.frames import read_batches, to_table
    from aqvolt_flows.sampling.features.screen import COLUMNS, Block

    if run.frames is not None and run.frames.columns is not None:
        frames = run.to_frames()
        rows = np.arange(start, len(frames), stride, dtype=np.int64)
        for place in range(0, len(rows), _BLOCK_ROWS):
            part = rows[place : place + _BLOCK_ROWS]
            yield part, Block.of(to_table([frames[i] for i in part]))
        return
    for found, batch in read_batches(run.frames_path(), COLUMNS, start, run.n_frames, stride, _BLOCK_ROWS):
        yield found, Block.of(batch)
