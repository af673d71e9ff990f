"""Force-binned errors as a benchmark: the labels of a release, or given labeled structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from aqvolt_flows.benchmarks import force_bins, item_errors
from aqvolt_flows.benchmarks.base import Progress, Row, Subject, Wanted
from aqvolt_flows.benchmarks.evaluate import evaluate_each
from aqvolt_flows.benchmarks.items import Item, ItemSet, ReleaseItems
from aqvolt_flows.benchmarks.paired import column, magnitude
from aqvolt_flows.benchmarks.parts import PartedBenchmark, row_of
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Potential
from aqvolt_flows.releases import release_folder
from aqvolt_flows.schemas.parameters import ForceBinParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.structures import to_atoms

#: Structures handed to the potential before progress is told.
_AT_ONCE = 64


class ForceBins(PartedBenchmark):
    """Errors against labels, binned by the largest reference force."""

    name = "force_bins"
    title = "Errors binned by force"
    job_name = "force bins"
    version = "benchmark/2"  # 1 kept no predictions
    parameters = ForceBinParameters
    part_size = 2000
    needs_reference = True
    columns = pa.schema([("max_force", pa.float64()), *((name, pa.float64()) for name in item_errors.SUMS)])
    predictions = {  # noqa: RUF012 - a class variable of the base
        "energy": pa.float64(),
        "forces": pa.list_(pa.float32()),
        "stress": pa.list_(pa.float64()),
    }
    headline = "force_mae_mev_per_a"
    headline_interval = "force_mae_interval_mev_per_a"
    compared = {  # noqa: RUF012 - a class variable of the base
        "|ΔE| (eV/atom)": magnitude("energy_error"),
        "|ΔF| (eV/Å)": column("force_mae"),
        "|Δσ| (eV/Å³)": column("stress_mae"),
    }
    table = (
        "model",
        "dataset",
        "n_items",
        "n_failed",
        "energy_mae_mev_per_atom",
        "energy_mae_interval_mev_per_atom",
        "energy_mean_error_mev_per_atom",
        "force_mae_mev_per_a",
        "force_mae_interval_mev_per_a",
        "force_rmse_mev_per_a",
        "force_slope",
        "stress_mae_gpa",
    )

    def subject(self, wanted: Wanted) -> Subject | None:
        """Return the release; its content hash is its identity."""
        if wanted.release is None:
            return None
        return Subject(wanted.release["release_id"], {"content_hash": wanted.release["content_hash"]})

    def item_set(self, database: Database, parameters: ForceBinParameters, argument: Any) -> ItemSet:
        """Return the labels of one split of the release with this identity."""
        release = database.find_by_ids("releases", [argument])[0]
        return ReleaseItems(release_folder(database, release), parameters.split, argument)

    def nothing(self) -> str:
        """Return what to do where there is no release."""
        return (
            "There is no release to compare with; make one with 'aqvolt release create', or name a file of labeled "
            "structures with --structures."
        )

    def metrics_of(self, metrics: Mapping[str, Any]) -> Row:
        """Return the overall errors, and the bins beside them."""
        overall = metrics.get("overall", {})
        return {name: overall.get(name) for name in self.table if name in overall} | {"bins": metrics.get("bins", [])}

    def check(self, parameters: ForceBinParameters, _argument: Any) -> None:
        """Raise unless the edges rise."""
        force_bins.check_edges(parameters.edges_ev_per_a)

    def n_parts(self, items: ItemSet) -> int:
        """Return how many parts a set has; an empty split is a sentence."""
        if not len(items):
            raise InputError(f"There are no labels in {items.dataset}; choose another split, or make a larger release.")
        return super().n_parts(items)

    def compute_part(
        self,
        potential: Potential,
        parameters: ForceBinParameters,  # noqa: ARG002 - bins are made of the rows
        items: Sequence[Item],
        workdir: Path,  # noqa: ARG002 - single points need no checkpoint
        progress: Progress | None,
    ) -> list[Row]:
        """Compare a model with labels."""
        rows: list[Row] = []
        for first in range(0, len(items), _AT_ONCE):
            some = items[first : first + _AT_ONCE]
            found = evaluate_each(potential.evaluate, [to_atoms(i.structure) for i in some])
            for item, one in zip(some, found, strict=True):
                rows.append(self._row(item, one))
            if progress:
                progress(len(rows))
        return rows

    def _row(self, item: Item, found: Any) -> Row:
        errors = item_errors.item_errors(item.reference, found)
        failed = isinstance(found, Failure)
        return row_of(
            item,
            max_force=errors.max_force,
            **{name: getattr(errors, name) for name in item_errors.SUMS},
            energy=None if failed else found.energy,
            forces=None if failed else found.forces.ravel().tolist(),
            stress=None if failed else found.stress.tolist(),
            atom_steps=errors.n_atoms,
            failure=errors.failure,
        )

    def aggregate(self, rows: Sequence[Row], parameters: ForceBinParameters) -> dict[str, Any]:
        """Return errors overall, per bin, source and subset."""
        return force_bins.aggregate_all([item_errors.of_row(r) for r in rows], parameters)
