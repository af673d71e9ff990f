"""Estimate how many systems fit into a device's memory, and adapt when fewer do."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch_sim as ts
from ase import Atoms

from aqvolt_flows.aside import written_aside
from aqvolt_flows.identity import content_key

#: Share of the free memory that a batch may plan with: cells expand and shrink, and lists are rebuilt.
MEMORY_SHARE = 0.7
#: Atoms in the larger of the probe's two batches.
PROBE_ATOMS = 1024
#: How CPU allocators of torch say that memory ran out; there is no class for it.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _CPU_MESSAGES)


def release_memory(device: torch.device) -> None:
    """Give cached blocks of a GPU back to its driver after memory ran out."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass
class Room:
    """What may run together.

    Attributes
    ----------
    max_atoms
        Of the campaign.
    max_size
        In the measure of :meth:`size`, from the probe; infinite where nothing was measured.
    by_density
        Whether memory goes with the number of pairs, as it does for models with a cutoff, or with that of atoms.
    """

    max_atoms: int
    max_size: float = math.inf
    by_density: bool = True

    def size(self, n_atoms: int, volume: float) -> float:
        """Return a system's share of the memory in arbitrary units: atoms, times atoms/Å³ if pairs count."""
        return n_atoms * n_atoms / volume if self.by_density else float(n_atoms)

    def fits(self, n_atoms: int, size: float) -> bool:
        """Return whether a batch of this many atoms and this size fits."""
        return n_atoms <= self.max_atoms and size <= self.max_size

    def shrink(self, size: float) -> None:
        """Take note that ``size`` was too much: from now on half of it is the limit."""
        self.max_size = min(self.max_size, size / 2)


class _Peak:
    """Largest memory in use inside a ``with`` block, bytes; None where it cannot be measured."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            yield
            torch.cuda.synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        _trim_heap()
        resettable = True
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (proc(5)); Linux only
        except OSError:
            resettable = False
        yield
        if resettable:
            lines = Path("/proc/self/status").read_text().splitlines()
            high = next(line for line in lines if line.startswith("VmHWM"))
            self.bytes = int(high.split()[1]) * 1024


def _trim_heap() -> None:
    """Give freed heap back to the kernel, where the C library can; else a batch that fits into it would seem free."""
    with contextlib.suppress(AttributeError, OSError):  # malloc_trim(3) is glibc's
        ctypes.CDLL(None).malloc_trim(0)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process could still take on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return int(psutil.virtual_memory().available)


def device_name(device: torch.device) -> str:
    """Return what tells devices apart for the probe's record."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory} bytes"
    return f"{device.type}, {psutil.virtual_memory().total} bytes"


def probe(model: Any, atoms: Atoms, by_density: bool, probe_atoms: int = PROBE_ATOMS) -> float | None:
    """Return the bytes that one unit of :meth:`Room.size` costs, from two batches of a real system.

    Parameters
    ----------
    model
        A torch-sim model.
    atoms
        A typical system; it is repeated as a batch.
    by_density
        See :class:`Room`.
    probe_atoms
        Atoms of the larger batch.

    Returns
    -------
    float or None
        None where memory cannot be measured, or where it did not grow measurably.
    """
    room = Room(probe_atoms, by_density=by_density)
    each = room.size(len(atoms), atoms.get_volume())
    large = max(2, probe_atoms // len(atoms))
    seen: list[tuple[float, int]] = []
    for copies in (1, max(1, large // 2), large):  # the first warms up: kernels, workspaces
        peak = _Peak(model.device)
        try:
            state = ts.io.atoms_to_state([atoms] * copies, device=model.device, dtype=model.dtype)
            with peak.measured():
                model(state)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            release_memory(model.device)
            break
        if peak.bytes is None:
            return None
        seen.append((copies * each, peak.bytes))
    if len(seen) < 2 or seen[-1][0] <= seen[-2][0] or seen[-1][1] <= seen[-2][1]:
        return None
    return (seen[-1][1] - seen[-2][1]) / (seen[-1][0] - seen[-2][0])


class MemoryRecord:
    """What is known of a model's memory on a device, in a small JSON file that all jobs share.

    Parameters
    ----------
    folder
        Where the files are.
    model_hash
        Of the weights.
    device
        Where the model is.
    """

    def __init__(self, folder: str | Path, model_hash: str, device: torch.device) -> None:
        name = device_name(device)
        key = content_key("memory/1", model=model_hash, device=name, torch=torch.__version__)
        self.path = Path(folder) / f"{key}.json"
        self._about = {"model_hash": model_hash, "device": name, "torch": torch.__version__}

    def read(self) -> dict[str, Any]:
        """Return the record: ``bytes_per_size``, and ``too_large`` where memory has run out; empty if there is none."""
        try:
            return dict(json.loads(self.path.read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def write(self, **values: Any) -> None:
        """Add to the record."""
        with written_aside(self.path) as aside:
            aside.write_text(json.dumps(self._about | self.read() | values))

    def too_large(self, size: float) -> None:
        """Take note that memory ran out at ``size``."""
        self.write(too_large=min(size, self.read().get("too_large", math.inf)))


def room_for(
    model: Any,
    systems: Sequence[Atoms],
    max_atoms: int,
    record: MemoryRecord | None = None,
    share: float = MEMORY_SHARE,
    measure: Callable[..., float | None] = probe,
) -> Room:
    """Return the room for a batch of a model: from the record, or from a probe that is then recorded.

    Parameters
    ----------
    model
        A torch-sim model.
    systems
        What is to run; the one of median size is the probe's.
    max_atoms
        Of the campaign.
    record
        What earlier jobs found.
    share
        Of the free memory.
    measure
        The probe.
    """
    by_density = getattr(model, "memory_scales_with", "n_atoms_x_density") != "n_atoms"
    room = Room(max_atoms, by_density=by_density)
    total = sum(len(a) for a in systems)
    known = record.read() if record else {}
    if "bytes_per_size" not in known and total > PROBE_ATOMS // 4:  # a small job needs no probe
        ordered = sorted(systems, key=lambda a: room.size(len(a), a.get_volume()))
        known["bytes_per_size"] = measure(model, ordered[len(ordered) // 2], by_density)
        if record:
            record.write(bytes_per_size=known["bytes_per_size"])
    if known.get("bytes_per_size"):
        room.max_size = share * free_memory(model.device) / known["bytes_per_size"]
    if "too_large" in known:
        room.shrink(known["too_large"])
    return room
