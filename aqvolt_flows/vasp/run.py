"""Running VASP under custodian in a folder of its own, and keeping its files."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.errors import ConfigError
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.vasp.outputs import locate
from aqvolt_flows.vasp.settings import theory

if TYPE_CHECKING:
    from atomate2.vasp.jobs.base import BaseVaspMaker
    from pymatgen.core import Structure

#: What is kept of a run. POTCARs are licensed and are identified by hash instead; charge densities and wave
#: functions are large and can be made again from what is kept.
KEPT = (
    "INCAR",
    "INCAR.orig",
    "KPOINTS",
    "POSCAR",
    "POSCAR.orig",
    "POTCAR.spec",
    "CONTCAR",
    "IBZKPT",
    "OSZICAR",
    "OUTCAR",
    "REPORT",
    "vasprun.xml",
    "vasp.out",
    "std_err.txt",
    "custodian.json",
)
#: Seconds between custodian's looks at its monitors.
MONITOR_S = 300.0


@dataclass(frozen=True)
class Run:
    """How a run under custodian ended.

    Attributes
    ----------
    error
        What custodian or atomate2's parsing raised, as text; empty where nothing was.
    seconds
        Wall time of all attempts together.
    """

    error: str
    seconds: float


def check_machine_updates() -> None:
    """Raise :class:`ConfigError` if this machine's atomate2 settings would change the theory level.

    atomate2 applies ``VASP_INCAR_UPDATES`` of its settings file to every INCAR; tags for parallel work are
    welcome there, others would silently make labels of another protocol.
    """
    from atomate2 import SETTINGS

    refused = sorted(theory(SETTINGS.VASP_INCAR_UPDATES))
    if refused:
        raise ConfigError(
            f"This machine's atomate2 settings change {', '.join(refused)} through VASP_INCAR_UPDATES; keep only tags "
            "of parallel work (NCORE, KPAR …) there and put the rest into the campaign's labeling.incar_updates."
        )


@contextlib.contextmanager
def fresh_folder(name: str) -> Iterator[Path]:
    """Make an empty folder below the working directory the working directory.

    A run must not find an earlier run's files: a stale vasprun.xml would be read as its result.
    """
    folder = Path.cwd() / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    with contextlib.chdir(folder):
        yield folder


def custodian_settings(command: str, max_errors: int, polling_s: float, **further: Any) -> dict[str, Any]:
    """Return ``run_vasp_kwargs`` of an atomate2 maker.

    The Γ-only executable is the same command: atomate2's default would be started without the launcher.
    """
    return {
        "vasp_cmd": command,
        "vasp_gamma_cmd": command,
        "max_errors": max_errors,
        "custodian_kwargs": {"polling_time_step": polling_s, "monitor_freq": max(1, round(MONITOR_S / polling_s))},
        **further,
    }


def run_maker(maker: BaseVaspMaker, structure: Structure) -> Run:
    """Run an atomate2 VASP maker here and now, in the working directory; whatever it raises is a fact, not an end.

    The files that it leaves decide what the run was worth (:func:`aqvolt_flows.vasp.outputs.read_calculation`).
    """
    started = time.perf_counter()
    error = ""
    try:
        type(maker).make.original(maker, structure)
    except Exception as raised:  # noqa: BLE001 - custodian, pymatgen and emmet raise anything; the files tell what it is worth
        error = f"{type(raised).__name__}: {raised}"[:1000]
    return Run(error, time.perf_counter() - started)


def archive(folder: Path, artifacts: ArtifactStore) -> ArtifactRef | None:
    """Store the files of :data:`KEPT` as one tar.gz and return its pointer; None if there are none.

    The archive's bytes depend on names and contents only, so that the same run is stored once.
    """
    contents = {}
    for name in KEPT:
        path = locate(folder, name)
        if path is not None:
            contents[name] = _content(path)
    if not contents:
        return None
    return artifacts.put_bytes(_tar_gz(contents), "tar.gz")


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError):
        return path.read_bytes()


def _tar_gz(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in sorted(contents.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
