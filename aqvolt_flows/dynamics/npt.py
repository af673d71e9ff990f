"""NpT molecular dynamics of many systems in one running batch, every one with its own step counter.

Systems that finish or fail leave the batch, and waiting ones take their place. When memory runs out, half of the batch
is parked in its current state and continues later. Frames are written to a sink as they are made. A
:meth:`NpTRun.snapshot` holds the complete state: on the CPU, a run restored from it gives the same bits as one that was
not interrupted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from aqvolt_flows.dynamics.batch import DTYPE, Batch, concatenate
from aqvolt_flows.dynamics.integrators import integrator_for
from aqvolt_flows.dynamics.memory import Room, is_out_of_memory, release_memory
from aqvolt_flows.dynamics.noise import TrajectoryNoise
from aqvolt_flows.dynamics.recording import Recorder
from aqvolt_flows.dynamics.stability import LOST_ATOM_STEPS, Guard, guard_steps
from aqvolt_flows.dynamics.steps import Forces
from aqvolt_flows.dynamics.systems import Outcome, System, check_ids, heated, initial_batch, model_state
from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import from_table
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure


class FrameSink(Protocol):
    """Where frames go."""

    def add(self, trajectory_id: str, table: pa.Table) -> None:
        """Take the next frames of one trajectory."""
        ...


class NpTRun:
    """Systems waiting, running and done.

    Parameters
    ----------
    model
        A torch-sim model that computes stress.
    systems
        What to run; at least one, every trajectory id once. They start in this order.
    parameters
        Integrator, timestep, pressure, limits.
    sink
        Takes frames; without one they are kept in the outcomes.
    room
        How much runs together; by default the parameters' ``max_batch_atoms``.
    on_out_of_memory
        Called with the size (see :class:`Room`) that was too much.

    Raises
    ------
    InputError
        If there is no system, one id twice, or a system of one atom.
    """

    def __init__(
        self,
        model: Any,
        systems: Sequence[System],
        parameters: ExplorationParameters,
        sink: FrameSink | None = None,
        room: Room | None = None,
        on_out_of_memory: Callable[[float], None] | None = None,
    ) -> None:
        check_ids([s.trajectory_id for s in systems])
        for s in systems:
            if len(s.atoms) < 2:
                raise InputError(
                    f"{s.trajectory_id} has one atom, which cannot move against its center of mass; set min_length_a "
                    "so that the supercell holds more."
                )
        self.outcomes = {s.trajectory_id: Outcome(s) for s in systems}
        self.model, self.parameters = model, parameters
        self.room = room or Room(parameters.max_batch_atoms)
        self.tick = 0
        self._ramps = any(s.final_temperature_k is not None for s in systems)
        self._waiting = deque(self.outcomes)
        self._parked: list[Batch] = []
        self._batch: Batch | None = None
        self._integrator = integrator_for(parameters)
        self._noise = TrajectoryNoise(self._integrator.draws, model.device)
        self._guard = Guard.of(parameters)
        self._guard_steps = guard_steps(model.device)
        self._recorder = Recorder(sink or _Memory(self.outcomes), parameters.equilibration_steps)
        self._on_out_of_memory = on_out_of_memory or (lambda _size: None)
        self._state: tuple[list[str], Any] | None = None
        self._sigma: torch.Tensor | None = None
        self._sizes: dict[str, float] = {}
        self._vacancy = True
        self._since = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether every system has ended."""
        return self._batch is None and not self._waiting and not self._parked

    @property
    def aligned(self) -> bool:
        """Whether the last step was one that is written, for every running system."""
        return self.tick % self.parameters.stride == 0

    @property
    def running(self) -> dict[str, int]:
        """Steps made by each system in the batch."""
        return dict(zip(self._batch.ids, self._batch.steps.tolist(), strict=True)) if self._batch else {}

    def run(self, on_progress: Callable[[NpTRun], None] | None = None) -> list[Outcome]:
        """Run to the end and return every system's outcome, in the order given.

        Parameters
        ----------
        on_progress
            Called after every step.
        """
        while not self.done:
            self.advance()
            if on_progress:
                on_progress(self)
        return list(self.outcomes.values())

    def advance(self) -> None:
        """Admit waiting systems where there is room, and make one step of every running system."""
        if (self._vacancy or self._batch is None) and (self._waiting or self._parked):
            self._fill()
        batch = self._batch
        if batch is None:
            return
        if self._ramps:
            batch = heated(batch, self.parameters.n_steps)
        try:
            noise = self._noise.at(batch.steps, batch.systems["step"], self._integrator.noisy(batch.steps))
            stepped = self._integrator.step(batch, self._forces_of(batch), noise)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._halve(error)
            return
        stepped = self._guard.doubted(stepped, self._sigma).updated({}, {"step": batch.systems["step"] + 1})
        stepped.steps = batch.steps + 1
        self._batch = self._guard.watch(stepped)
        self.tick += 1
        ended = np.flatnonzero(stepped.steps >= self.parameters.n_steps)
        if len(ended) or self.tick % self._guard_steps == 0:
            self._remove_failed()
        if self._batch is not None and self.aligned:
            self._recorder.record(self._batch)
            if (self._batch.steps % _round_up(LOST_ATOM_STEPS, self.parameters.stride) == 0).any():
                self._search_lost(may_halve=not len(ended))
        if len(ended):
            self._remove_finished()

    def _search_lost(self, may_halve: bool) -> None:
        """End systems that have lost an atom; a search that does not fit into the memory is left out."""
        assert self._batch is not None
        try:
            self._batch = self._guard.search_lost(self._batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if may_halve:
                self._halve(error)
            return
        self._remove_failed()

    def flush(self) -> None:
        """Hand every frame so far to the sink, those of failed steps excepted."""
        if self._batch is not None:
            self._remove_failed()
            self._recorder.flush()

    def snapshot(self) -> dict[str, Any]:
        """Return everything that :meth:`restore` needs, as plain values and CPU tensors; frames are flushed first."""
        self.flush()
        self._share_time()
        return {
            "tick": self.tick,
            "batch": self._batch.as_dict() if self._batch is not None else None,
            "parked": [b.as_dict() for b in self._parked],
            "waiting": list(self._waiting),
            "room": [self.room.max_atoms, self.room.max_size],
            "vacancy": self._vacancy,
            "outcomes": {
                i: [o.ended, o.steps_done, o.seconds, o.failure and o.failure.model_dump()]
                for i, o in self.outcomes.items()
            },
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot.

        Systems missing from the snapshot are queued; systems no longer requested are dropped.
        """
        batches = [Batch.from_dict(b) for b in [snapshot["batch"], *snapshot["parked"]] if b is not None]
        batches = [b.select([i for i, name in enumerate(b.ids) if name in self.outcomes]) for b in batches]
        self.tick = snapshot["tick"]
        self.room.max_atoms, self.room.max_size = snapshot["room"]
        parked = batches[1:] if snapshot["batch"] is not None else batches
        self._parked = [b for b in parked if len(b)]
        known = {i for b in batches for i in b.ids}
        for i, (ended, steps, seconds, failure) in snapshot["outcomes"].items():
            if i in self.outcomes:
                o = self.outcomes[i]
                o.ended, o.steps_done, o.seconds = ended, steps, seconds
                o.failure = Failure(**failure) if failure else None
                known |= {i} if ended else set()
        waiting = [i for i in snapshot["waiting"] if i in self.outcomes]
        self._waiting = deque([*waiting, *(i for i in self.outcomes if i not in known and i not in set(waiting))])
        self._set_batch(batches[0].to(self.model.device) if snapshot["batch"] is not None else None)
        self._vacancy = snapshot["vacancy"]

    def _forces_of(self, batch: Batch) -> Forces:
        if self._state is None or self._state[0] is not batch.ids:  # as long as the composition stays, so does it
            self._state = batch.ids, model_state(batch, self.model.dtype)
        state = self._state[1]

        def forces(positions: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            positions, cell = self._guard.safe(batch, positions, cell)
            state.positions = positions.to(self.model.dtype)
            state.cell = cell.transpose(-2, -1).to(self.model.dtype).contiguous()
            out = self.model(state)
            self._sigma = out.get("force_sigma")  # of a committee, for the guard
            energy, force, stress = (out[name].detach().to(DTYPE) for name in ("energy", "forces", "stress"))
            return energy, force, stress

        return forces

    def _start(self, ids: Sequence[str]) -> Batch:
        """Return systems at step 0 with their momenta and forces."""
        systems = [self.outcomes[i].system for i in ids]
        batch = self._guard.start(initial_batch(systems, self.model.device, self._ramps))
        energy, forces, stress = self._forces_of(batch)(batch.atoms["positions"], batch.systems["cell"])
        batch = self._integrator.start(batch.updated({"forces": forces}, {"energy": energy, "stress": stress}))
        return self._guard.watch(batch)

    def _fill(self) -> None:
        """Admit waiting systems, parked ones first, while they fit.

        A system joins only at a step where its output stride coincides with the batch's.
        """
        stride = self.parameters.stride
        if self._batch is None and not self.aligned and not self._parked:
            self.tick += stride - self.tick % stride
        if self._batch is None and self._parked:
            self.tick += int(self._parked[0].steps[0] - self.tick) % stride
        atoms = self._batch.n_atoms if self._batch else 0
        size = self._size(self._batch.ids) if self._batch else 0.0
        entering: list[Batch] = []
        for parked in list(self._parked):
            own = self._size(parked.ids)
            ready = (self.tick - int(parked.steps[0])) % stride == 0
            if ready and (not (atoms or entering) or self.room.fits(atoms + parked.n_atoms, size + own)):
                self._parked.remove(parked)
                entering.append(parked.to(self.model.device))
                atoms, size = atoms + parked.n_atoms, size + own
        fresh: list[str] = []
        if self.aligned:
            for i in list(self._waiting):
                n, own = len(self.outcomes[i].system.atoms), self._size([i])
                if not atoms or self.room.fits(atoms + n, size + own):
                    fresh.append(i)
                    atoms, size = atoms + n, size + own
                if atoms >= self.room.max_atoms:
                    break
            self._vacancy = bool(self._parked)
        for i in fresh:
            self._waiting.remove(i)
        started = self._try_start(fresh) if fresh else None
        if started is not None:
            entering.append(started)
        if entering:
            self._join(entering)

    def _try_start(self, ids: list[str]) -> Batch | None:
        """Return new systems with their forces; when memory runs out, fewer of them, and the others stay queued."""
        while ids:
            try:
                batch = self._start(ids)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                release_memory(self.model.device)
                self._too_large(self._size(ids) + (self._size(self._batch.ids) if self._batch else 0.0))
                if len(ids) == 1 and self._batch is None:
                    self._end(ids[0], 0, _no_memory(error))
                    return None
                keep = len(ids) // 2
                self._waiting.extendleft(reversed(ids[keep:]))
                ids = ids[:keep]
                continue
            failures = self._guard.failures(batch)
            for local, (_, failure) in failures.items():
                self._end(batch.ids[local], 0, failure)
            alive = [i for i in range(len(batch)) if i not in failures]
            if not alive:
                return None
            batch = batch.select(alive) if failures else batch
            self._recorder.flush()
            self._recorder.record(batch)
            self._recorder.flush()
            return batch
        return None

    def _join(self, entering: list[Batch]) -> None:
        self._share_time()
        self._recorder.flush()
        self._set_batch(concatenate([b for b in [self._batch, *entering] if b is not None]))

    def _set_batch(self, batch: Batch | None) -> None:
        self._batch = batch if batch is not None and len(batch) else None
        if self._batch is not None:
            self._noise.prepare(self._batch.seeds, [(3 * int(n) - 4) / 2 for n in self._batch.counts])

    def _halve(self, error: BaseException) -> None:
        """Park half of the systems after memory ran out; they continue when there is room."""
        assert self._batch is not None
        release_memory(self.model.device)
        self.flush()
        if self._batch is None:
            return
        self._too_large(self._size(self._batch.ids))
        if len(self._batch) == 1:
            self._end(self._batch.ids[0], int(self._batch.steps[0]), _no_memory(error))
            self._keep([])
            return
        middle = len(self._batch) // 2
        rest = self._batch.select(range(middle, len(self._batch))).to("cpu")
        self._parked += [rest.select([i]) for i in range(len(rest))]
        self._keep(range(middle))
        self._vacancy = False  # room is made by those that end

    def _too_large(self, size: float) -> None:
        self.room.shrink(size)
        self._on_out_of_memory(size)

    def _remove_failed(self) -> None:
        """Take failed systems out of the batch; their frames before the failure are kept, the others continue."""
        assert self._batch is not None
        failures = self._guard.failures(self._batch)
        if not failures:
            return
        self._recorder.flush(self._batch)
        for local, (step, failure) in failures.items():
            self._end(self._batch.ids[local], step, failure)
        self._keep([i for i in range(len(self._batch)) if i not in failures])

    def _remove_finished(self) -> None:
        if self._batch is None:
            return
        last = self._batch.steps >= self.parameters.n_steps
        self._recorder.flush()
        for local in np.flatnonzero(last):
            self._end(self._batch.ids[local], int(self._batch.steps[local]), None)
        self._keep(np.flatnonzero(~last))

    def _keep(self, keep: Sequence[int] | NDArray[np.int64] | range) -> None:
        assert self._batch is not None
        self._share_time()
        self._set_batch(self._batch.select([int(i) for i in keep]))
        self._vacancy = True

    def _end(self, trajectory_id: str, steps: int, failure: Failure | None) -> None:
        outcome = self.outcomes[trajectory_id]
        outcome.steps_done, outcome.failure, outcome.ended = steps, failure, True

    def _size(self, ids: Sequence[str]) -> float:
        """Return the ids' share of the memory, at their starting volumes."""
        for i in ids:
            if i not in self._sizes:
                atoms = self.outcomes[i].system.atoms
                self._sizes[i] = self.room.size(len(atoms), atoms.get_volume())
        return sum(self._sizes[i] for i in ids)

    def _share_time(self) -> None:
        """Give the time since the last call to the running systems, by their atoms."""
        now = time.monotonic()
        if self._batch is not None:
            each = (now - self._since) / self._batch.n_atoms
            for i, n in zip(self._batch.ids, self._batch.counts.tolist(), strict=True):
                self.outcomes[i].seconds += each * n
        self._since = now


class _Memory:
    """A sink that keeps frames in the outcomes."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        self._outcomes = outcomes

    def add(self, trajectory_id: str, table: pa.Table) -> None:
        self._outcomes[trajectory_id].frames += from_table(table.combine_chunks())


def _round_up(steps: int, stride: int) -> int:
    return -(-steps // stride) * stride


def _no_memory(error: BaseException) -> Failure:
    said = " ".join(str(error).split())[:200]
    return Failure(reason="out_of_memory", message=f"alone, it does not fit into the device's memory ({said})")
