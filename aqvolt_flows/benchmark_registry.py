"""The registry of benchmarks: names, and where the class of each is; open to other packages.

An entry is light; the class behind it (:class:`aqvolt_flows.benchmarks.base.Benchmark`) is imported when it is asked
for. Other packages add entries through the entry-point group ``aqvolt.benchmarks`` (docs/extending.md).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aqvolt_flows.jobs import typed
from aqvolt_flows.registries import Registry
from aqvolt_flows.schemas.parameters import BenchmarkParameters

if TYPE_CHECKING:
    from aqvolt_flows.schemas.base import Parameters


@dataclass(frozen=True)
class BenchmarkEntry:
    """One benchmark.

    Attributes
    ----------
    name
        On the command line, in campaigns, keys and documents; with underscores.
    help
        What it measures, in one phrase.
    implementation
        ``module:Class``.
    """

    name: str
    help: str
    implementation: str

    def load(self) -> Any:
        """Return the benchmark."""
        module, _, name = self.implementation.partition(":")
        found: Any = getattr(importlib.import_module(module), name)()
        return found


BENCHMARKS: Registry[BenchmarkEntry] = Registry(
    "benchmark",
    BenchmarkEntry,
    [
        BenchmarkEntry(
            "ev_scan", "energy against volume, MLIP Arena's scan", "aqvolt_flows.benchmarks.ev_scan_benchmark:EVScan"
        ),
        BenchmarkEntry(
            "force_bins",
            "errors binned by the largest reference force",
            "aqvolt_flows.benchmarks.force_bins_benchmark:ForceBins",
        ),
        BenchmarkEntry(
            "relaxation",
            "displaced structures relaxed again",
            "aqvolt_flows.benchmarks.relaxation_benchmark:Relaxation",
        ),
        BenchmarkEntry(
            "bulk_modulus",
            "bulk moduli from equations of state",
            "aqvolt_flows.benchmarks.bulk_modulus_benchmark:BulkModulus",
        ),
        BenchmarkEntry(
            "heating", "survival of a heating ramp from 300 to 2,100 K", "aqvolt_flows.benchmarks.heating:Heating"
        ),
        BenchmarkEntry(
            "conductivity",
            "conductivity of lithium by molecular dynamics",
            "aqvolt_flows.benchmarks.conductivity:LiConductivity",
        ),
    ],
    group="aqvolt.benchmarks",
)


def benchmark_named(name: str) -> Any:
    """Return a benchmark by its name, with hyphens or underscores.

    Raises
    ------
    InputError
        If there is none.
    """
    return BENCHMARKS[name.replace("-", "_")].load()


def parameters_of(benchmark: Any, group: BenchmarkParameters) -> Parameters:
    """Return a benchmark's parameters of a campaign's group; its defaults where the campaign says nothing.

    Raises
    ------
    InputError
        If a key or value is wrong.
    """
    given: Any = getattr(group, benchmark.name, None)
    if given is None:
        return benchmark.parameters()
    if isinstance(given, benchmark.parameters):
        return given
    found: Parameters = typed(dict(given) if isinstance(given, Mapping) else given, benchmark.parameters)
    return found
