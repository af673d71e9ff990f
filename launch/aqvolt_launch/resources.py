"""What a worker occupies: cores and GPUs, so that launches can be summed to core-hours and GPU-hours."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

_NVIDIA = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Resources:
    """Cores and GPUs of one worker."""

    cores: int
    gpus: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields as a mapping."""
        return asdict(self)


def occupied(category: str | None = None) -> Resources:
    """Return what a worker in this process occupies.

    Cores: what SLURM gave to the job (tasks times cores a task), else ``OMP_NUM_THREADS``, else the cores that this
    process may use. GPUs: those of CUDA_VISIBLE_DEVICES, else all of the machine; for workers that share a card
    through MPS the part that CUDA_MPS_ACTIVE_THREAD_PERCENTAGE leaves them; none for workers of cpu and vasp work.

    Parameters
    ----------
    category
        Of the worker; None runs everything.
    """
    slurm = _number("SLURM_NTASKS") * (_number("SLURM_CPUS_PER_TASK") or 1)
    cores = slurm or _number("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    return Resources(cores, _gpus() if category in {None, "", "gpu"} else 0.0)


def _gpus() -> float:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        number = len(list(_NVIDIA.iterdir())) if _NVIDIA.is_dir() else 0
    else:
        number = len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    share = _number("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
    return number * min(share, 100) / 100 if share else float(number)


def _number(variable: str) -> int:
    text = os.environ.get(variable, "").split(",")[0]
    return int(text) if text.isdigit() else 0
