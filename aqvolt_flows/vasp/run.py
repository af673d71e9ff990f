"""Running VASP under custodian in a folder of its own, and keeping its files."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.errors import ConfigError, InputError
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.vasp.outputs import locate, read_text
from aqvolt_flows.vasp.potcars import datasets_in
from aqvolt_flows.vasp.processes import end_leftovers, leashed, marked
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
    task
        What :func:`trimmed_task` keeps of atomate2's task document; empty where none was made.
    leftovers
        Processes of this run that were still there after it, and were ended.
    """

    error: str
    seconds: float
    task: dict[str, Any] = field(default_factory=dict)
    leftovers: list[int] = field(default_factory=list)


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


def custodian_settings(
    command: str, max_errors: int, polling_s: float, monitor_s: float = MONITOR_S, **further: Any
) -> dict[str, Any]:
    """Return ``run_vasp_kwargs`` of an atomate2 maker.

    The Γ-only executable is the same command: atomate2's default would be started without the launcher. VASP ends
    with the process that started it.
    """
    command = leashed(command)
    return {
        "vasp_cmd": command,
        "vasp_gamma_cmd": command,
        "vasp_job_kwargs": {"auto_gamma": False},
        "max_errors": max_errors,
        "custodian_kwargs": {"polling_time_step": polling_s, "monitor_freq": max(1, round(monitor_s / polling_s))},
        **further,
    }


def run_maker(maker: BaseVaspMaker, structure: Structure) -> Run:
    """Run an atomate2 VASP maker in the working directory; exceptions are recorded in the result, not raised.

    The files that it leaves decide what the run was worth (:func:`aqvolt_flows.vasp.outputs.read_calculation`).
    """
    started = time.perf_counter()
    error, task = "", {}
    try:
        with marked(Path.cwd()):
            response = type(maker).make.original(maker, structure)
        task = trimmed_task(response.output)
    except Exception as raised:  # noqa: BLE001 - custodian, pymatgen and emmet raise anything; the files tell what it is worth
        error = f"{type(raised).__name__}: {raised}"[:1000]
    return Run(error, time.perf_counter() - started, task, end_leftovers(Path.cwd()))


def trimmed_task(document: Any) -> dict[str, Any]:
    """Return the small facts of an emmet ``TaskDoc``: what ran, on what, how long and in how much memory.

    The document itself holds each structure several times, every electronic step, and eigenvalues and projections
    where they are asked for; with 200 atoms it nears MongoDB's 16 MiB (atomate2#461, #671, #703). Its arrays are in
    the raw files.
    """
    stats = (document.run_stats or {}).get("overall")
    kept = {
        "task_type": _text(document.task_type),
        "run_type": _text(document.run_type),
        "state": _text(document.state),
        "formula": document.formula_pretty,
        "n_sites": document.nsites,
        "kpoints": _kpoints(document),
        "elapsed_s": getattr(stats, "elapsed_time", None),
        "max_memory_kb": getattr(stats, "max_memory", None),
    }
    return {name: value for name, value in kept.items() if value is not None}


def _text(value: Any) -> str | None:
    return None if value is None else str(getattr(value, "value", value))


def _kpoints(document: Any) -> list[int] | None:
    """Return the mesh that VASP used, whether from KPOINTS or KSPACING."""
    try:
        kpoints = document.calcs_reversed[0].input.kpoints
        given = kpoints if isinstance(kpoints, dict) else kpoints.as_dict()
        return [int(n) for n in given["kpoints"][0]]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None


def archive(folder: Path, artifacts: ArtifactStore) -> ArtifactRef | None:
    """Store the files of :data:`KEPT` as one tar.gz and return its pointer; None if there are none.

    The archive's bytes depend on names and contents only, so that the same run is stored once.
    """
    contents = {}
    for name in KEPT:
        path = locate(folder, name)
        if path is not None:
            contents[name] = _content(path)
    if contents and "POTCAR.spec" not in contents:
        contents |= _potcar_spec(folder)
    if not contents:
        return None
    return artifacts.put_bytes(_tar_gz(contents), "tar.gz")


def _potcar_spec(folder: Path) -> dict[str, bytes]:
    """Return POTCAR.spec of the POTCAR that was used: pymatgen's form, one symbol a line."""
    try:
        symbols = [dataset.symbol for dataset in datasets_in(read_text(folder, "POTCAR"))]
    except InputError:
        return {}
    return {"POTCAR.spec": "\n".join(symbols).encode()} if symbols else {}


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError):
        return path.read_bytes()


def _tar_gz(contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, data in sorted(contents.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
