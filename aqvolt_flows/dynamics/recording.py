"""Record frames of running systems: kept on the device, fetched many at a time."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from aqvolt_flows.dynamics.batch import Batch
from aqvolt_flows.frames import stacked_table
from aqvolt_flows.units import matrix_to_voigt

#: Bytes of frames that are held on the device before they are fetched.
HELD_BYTES = 64 * 2**20


class Sink(Protocol):
    """Takes tables of frames."""

    def add(self, trajectory_id: str, table: Any) -> None:
        """Take the next frames of one trajectory."""
        ...


class Recorder:
    """Collects the frames of one batch composition.

    Parameters
    ----------
    sink
        Where they go.
    equilibration_steps
        Frames of steps before this are marked.
    held_bytes
        Frames are fetched when they take more than this many bytes.
    """

    def __init__(self, sink: Sink, equilibration_steps: int = 0, held_bytes: int = HELD_BYTES) -> None:
        self._sink, self._equilibration, self._limit = sink, equilibration_steps, held_bytes
        self._batch: Batch | None = None
        self._held: list[tuple[np.ndarray, dict[str, torch.Tensor]]] = []
        self._bytes = 0

    def record(self, batch: Batch) -> None:
        """Take a frame of every system; arrays in single precision, energies in double."""
        s, a = batch.systems, batch.atoms
        frame = {
            "positions": a["positions"].to(torch.float32),
            "forces": a["forces"].to(torch.float32),
            "cell": s["cell"].to(torch.float32),
            "stress": s["stress"],
            "numbers": torch.stack([batch.temperature(), s["energy"], batch.pressure(), batch.volume()]),
        }
        self._held.append((batch.steps.copy(), frame))
        self._batch = batch
        self._bytes += sum(t.numel() * t.element_size() for t in frame.values())
        if self._bytes > self._limit:
            self.flush()

    def flush(self, batch: Batch | None = None) -> None:
        """Hand over what is held; frames at or after a system's failed step are dropped.

        Parameters
        ----------
        batch
            The same systems as they stand now, flags included; by default as they were at the last record.
        """
        held, self._held, self._bytes = self._held, [], 0
        known = batch or self._batch
        if not held or known is None:
            return
        steps = np.stack([s for s, _ in held])
        arrays = {name: torch.stack([f[name] for _, f in held]).cpu().numpy() for name in held[0][1]}
        arrays["stress"] = matrix_to_voigt(arrays["stress"]).astype(np.float32)
        failed = known.systems["fail_step"].cpu().numpy()
        numbers = known.atoms["numbers"].cpu().numpy().astype(np.int16)
        first = 0
        for local, (name, count) in enumerate(zip(known.ids, known.counts.tolist(), strict=True)):
            last = first + count
            rows = slice(None) if failed[local] < 0 else np.flatnonzero(steps[:, local] < failed[local])
            if len(steps[rows]):
                temperature, energy, pressure, volume = (arrays["numbers"][rows, k, local] for k in range(4))
                table = stacked_table(
                    name,
                    numbers[first:last],
                    {
                        "step": steps[rows, local],
                        "temperature": temperature,
                        "energy": energy,
                        "pressure": pressure,
                        "volume": volume,
                        "equilibration": steps[rows, local] < self._equilibration,
                        "positions": arrays["positions"][rows, first:last],
                        "forces": arrays["forces"][rows, first:last],
                        "cell": arrays["cell"][rows, local],
                        "stress": arrays["stress"][rows, local],
                    },
                )
                self._sink.add(name, table)
            first = last
