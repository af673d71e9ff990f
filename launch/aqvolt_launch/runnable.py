"""Which Fireworks a worker may run, and can run here, found before it takes one.

Whoever can write to a LaunchPad can put any Firetask, any function and any class into it, and a worker that loads such
a Firework imports and calls what it names. So a worker looks at the stored document first. It takes jobflow jobs whose
function is a job (decorated with ``@job``) of our packages, of atomate2 or jobflow, of packages that ``job_packages``
of ``aqvolt.yaml`` names, or of packages that an entry point of the groups ``aqvolt.…`` comes from. Their arguments may
hold objects of these packages, and of the scientific packages in :data:`DATA_PACKAGES`.

A job that this machine cannot import, or that a newer version of this package submitted, is left to others.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.settings import AqvoltSettings

if TYPE_CHECKING:
    from fireworks import LaunchPad

#: Their jobs always run.
JOB_PACKAGES = ("aqvolt_flows", "aqvolt_builders", "atomate2", "jobflow")
#: Objects of these may be arguments.
DATA_PACKAGES = frozenset(
    {"pymatgen", "emmet", "numpy", "monty", "ase", "datetime", "uuid", "bson", "torch", "pandas", "pint", "maggma"}
)
ENTRY_POINT_GROUPS = ("aqvolt.potentials", "aqvolt.labelers", "aqvolt.benchmarks", "aqvolt.encoders", "aqvolt.jobs")
JOB_TASK = "{{jobflow.managers.fireworks.JobFiretask}}"
#: Packages whose ASE calculators a :class:`~aqvolt_flows.potentials.given.CalculatorRecipe` may make.
CALCULATOR_PACKAGES = frozenset(
    {"ase", "chgnet", "sevenn", "fairchem", "matgl", "mace", "tblite", "dftd3", "torch_sim"}
)
#: Stores that only speak to a server or to memory; others of maggma write files wherever a document says.
_STORES = frozenset({"MongoStore", "MongoURIStore", "GridFSStore", "GridFSURIStore", "MemoryStore", "S3Store"})
#: Keys of a spec with which FireWorks would load further objects.
_LOADS_MORE = ("_background_tasks", "_dupefinder")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_RECIPE = "CalculatorRecipe"


@dataclass(frozen=True)
class Refusal:
    """Why a worker leaves a Firework where it is.

    Attributes
    ----------
    kind
        ``not_allowed``: it names what must not run. ``cannot_import``, ``newer_version``: another worker may run it.
    message
        What was seen and what to do.
    """

    kind: str
    message: str


class _NotAllowedError(Exception):
    pass


class _CannotImportError(Exception):
    pass


def job_packages(settings: AqvoltSettings) -> frozenset[str]:
    """Return the packages whose jobs run here."""
    return frozenset({*JOB_PACKAGES, *settings.job_packages, *_plugin_packages()})


@cache
def _plugin_packages() -> frozenset[str]:
    return frozenset(
        point.value.partition(":")[0].partition(".")[0] for g in ENTRY_POINT_GROUPS for point in entry_points(group=g)
    )


def worker_query(settings: AqvoltSettings) -> dict[str, Any]:
    """Return a query for Fireworks with one task, a job of an allowed package; ``rlaunch`` can look no closer."""
    packages = "|".join(sorted(job_packages(settings)))
    task = "spec._tasks.0"
    return {
        f"{task}._fw_name": JOB_TASK,
        f"{task}.job.function.@module": {"$regex": f"^({packages})([.]|$)"},
        **{f"spec.{key}": {"$exists": False} for key in ("_tasks.1", *_LOADS_MORE, "_launch_dir")},
    }


def refusal(firework: Mapping[str, Any], settings: AqvoltSettings) -> Refusal | None:
    """Return why a worker must leave a Firework, or None if it may run and can.

    Parameters
    ----------
    firework
        Its stored document, at least ``spec``; nothing of it is loaded before it is found allowed.
    settings
        Name further packages and the launch folder.
    """
    spec = firework.get("spec")
    allowed = job_packages(settings)
    try:
        if not isinstance(spec, Mapping) or not isinstance(spec.get("_tasks"), list) or not spec["_tasks"]:
            raise _NotAllowedError("it has no task")
        _check_control(spec, settings)
        for task in spec["_tasks"]:
            _check_task(task, allowed)
        for part in _mappings(spec):
            _check_object(part, allowed)
        for task in spec["_tasks"]:
            if task["_fw_name"] == JOB_TASK:
                _check_function(task["job"]["function"], allowed)
        newer = _newer(spec)
    except _NotAllowedError as error:
        return Refusal(
            "not_allowed",
            f"{error}; if it is yours, name its package in job_packages of aqvolt.yaml, else remove it with lpad.",
        )
    except _CannotImportError as error:
        return Refusal("cannot_import", f"this machine cannot import it ({error}); install what it needs here.")
    return Refusal("newer_version", newer) if newer else None


def waiting_refused(launchpad: LaunchPad, settings: AqvoltSettings) -> dict[str, int]:
    """Return reason → number of READY Fireworks that a worker here would leave; one of each kind of job is looked at.

    A kind is a task, a function and a version; arguments are looked at when a worker would take the job.
    """
    job = "$spec._tasks.job"
    kind = {
        "task": "$spec._tasks._fw_name",
        "module": f"{job}.function.@module",
        "name": f"{job}.function.@callable",
        "version": "$spec.aqvolt.version",
    }
    group = {"$group": {"_id": kind, "n": {"$sum": 1}, "one": {"$first": "$fw_id"}}}
    found: dict[str, int] = {}
    for row in list(launchpad.fireworks.aggregate([{"$match": {"state": "READY"}}, group])):
        one = launchpad.fireworks.find_one({"fw_id": row["one"]}, {"spec": 1})
        why = refusal(one, settings) if one else None
        if why:
            found[why.message] = found.get(why.message, 0) + row["n"]
    return found


def _newer(spec: Mapping[str, Any]) -> str:
    """Return a sentence if a newer version of this package submitted the job."""
    mark = spec.get("aqvolt")
    made_by = str(mark.get("version") or "") if isinstance(mark, Mapping) else ""
    here = version("aqvolt-flows")
    if made_by and _numbers(made_by) > _numbers(here):
        return f"aqvolt-flows {made_by} submitted it and this worker is {here}; update this machine."
    return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that make versions incompatible, the first two."""
    return tuple(int(n) for n in re.findall(r"\d+", text)[:2])


def _check_control(spec: Mapping[str, Any], settings: AqvoltSettings) -> None:
    if more := [key for key in _LOADS_MORE if spec.get(key)]:
        raise _NotAllowedError(f"its spec has {more[0]}")
    folder = spec.get("_launch_dir")
    if folder is not None:
        root = settings.path(settings.launch_dir)
        if not isinstance(folder, str) or "\0" in folder or not Path(folder).resolve().is_relative_to(root):
            raise _NotAllowedError(f"it would run in {str(folder)[:100]!r}, outside of {root}")


def _check_task(task: Any, allowed: frozenset[str]) -> None:
    name = task.get("_fw_name") if isinstance(task, Mapping) else None
    if name == JOB_TASK:
        if not isinstance(task.get("job"), Mapping) or not isinstance(task["job"].get("function"), Mapping):
            raise _NotAllowedError("its job has no function")
    elif _package_of_task(name) not in allowed:
        raise _NotAllowedError(f"its task is {str(name)[:100]!r}, not a job")


def _package_of_task(name: Any) -> str:
    """Return the package of a Firetask; FireWorks' own are named by their class alone."""
    text = str(name or "")
    return text.strip("{}").partition(".")[0] if text.startswith("{{") else "fireworks" if text else ""


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping inside a document; iterative, however deep it is."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)


def _check_object(part: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Raise unless what FireWorks and monty would make of a mapping is of an allowed package."""
    if "_fw_name" in part and part["_fw_name"] != JOB_TASK and _package_of_task(part["_fw_name"]) not in allowed:
        raise _NotAllowedError(f"it holds a {str(part['_fw_name'])[:100]!r}")
    if "@module" not in part:
        return
    module, name = str(part["@module"]), str(part.get("@class") or part.get("@callable") or "")
    package = module.partition(".")[0]
    if not _NAME.match(module) or (name and not _NAME.match(name)) or "__" in f"{module}.{name}":
        raise _NotAllowedError(f"it names {module[:80]!r}.{name[:80]!r}")
    if "@callable" in part:
        if package not in allowed:
            raise _NotAllowedError(f"it names the function {module}.{name}")
        _resolve(part, allowed)
    elif package not in allowed | DATA_PACKAGES or (package == "maggma" and name not in _STORES):
        raise _NotAllowedError(f"it holds a {module}.{name}")
    if name == _RECIPE:
        _check_recipe(part, allowed)


def _check_recipe(part: Mapping[str, Any], allowed: frozenset[str]) -> None:
    maker = str(part.get("maker"))
    module, _, name = maker.partition(":")
    fits = _NAME.match(module) and name.isidentifier() and "__" not in maker
    arguments = part.get("arguments") or {}
    commands = (
        [a for a in arguments if "command" in str(a) or a == "profile"] if isinstance(arguments, Mapping) else ["?"]
    )
    if not fits or module.partition(".")[0] not in allowed | CALCULATOR_PACKAGES or commands:
        raise _NotAllowedError(f"it would make the calculator {maker[:100]!r}{' with a command' if commands else ''}")
    found = _import(module, name)
    if not isinstance(found, type) and str(getattr(found, "__module__", "")).partition(".")[0] not in allowed:
        raise _NotAllowedError(f"it would make the calculator {maker[:100]!r}, which is no class")
    _check_home(found, maker, allowed | CALCULATOR_PACKAGES)


def _check_function(function: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Raise unless a job's function is one: others (``run_vasp(vasp_cmd=…)``) call whatever their arguments say."""
    found = _resolve(function, allowed)
    if not hasattr(found, "original"):
        said = f"{function.get('@module')}.{function.get('@callable')}"
        raise _NotAllowedError(f"its function {said} is no job")


def _resolve(part: Mapping[str, Any], allowed: frozenset[str]) -> Any:
    """Return the function that monty would find, which must live in an allowed package itself."""
    module, name = str(part.get("@module")), str(part.get("@callable"))
    if not _NAME.match(module) or not _NAME.match(name) or module.partition(".")[0] not in allowed or "__" in name:
        raise _NotAllowedError(f"it names the function {module[:80]}.{name[:80]}")
    bound = part.get("@bound")
    if bound is None:
        found = _import(module, name)
    else:
        if not isinstance(bound, Mapping) or str(bound.get("@module")).partition(".")[0] not in allowed:
            raise _NotAllowedError(f"it names a method of {str(bound)[:80]}")
        found = _import(str(bound["@module"]), ".".join([str(bound.get("@class")), *name.split(".")[1:]]))
    _check_home(found, f"{module}.{name}", allowed)
    return found


def _check_home(found: Any, name: str, allowed: frozenset[str]) -> None:
    home = str(getattr(found, "__module__", None) or "").partition(".")[0]
    if home not in allowed:
        raise _NotAllowedError(f"it names {name}, which is of {home or 'no package'}")


def _import(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # noqa: BLE001 - importing a foreign module may raise anything; it is reported
        raise _CannotImportError(f"{module}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
    return found
