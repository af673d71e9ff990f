"""Force-binned errors as a benchmark of a project: the labels of a release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from aqvolt_flows.benchmarks import force_bins
from aqvolt_flows.benchmarks.base import (
    FAILURE_COLUMNS,
    Benchmark,
    Measured,
    Progress,
    Row,
    Subject,
    Wanted,
    reason_columns,
)
from aqvolt_flows.benchmarks.evaluate import evaluate_each
from aqvolt_flows.benchmarks.release_data import read_release
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Potential
from aqvolt_flows.releases import release_folder
from aqvolt_flows.schemas.parameters import ForceBinParameters
from aqvolt_flows.stores import Database


def error_row(errors: force_bins.ItemErrors) -> Row:
    """Return what every row of errors holds: eV/atom (signed), eV/Å, eV/Å³, failure."""
    return {
        "n_atoms": errors.n_atoms,
        "max_force": errors.max_force,
        "energy_error": errors.energy_error,
        "force_mae": errors.force_mae,
        "stress_mae": errors.stress_mae,
        **reason_columns(errors.failure),
    }


class ForceBins(Benchmark):
    """Errors against a release's labels, binned by the largest reference force."""

    name = "force_bins"
    title = "Errors binned by force"
    job_name = "force bins"
    parameters = ForceBinParameters
    columns = pa.schema(
        [
            ("label_id", pa.string()),
            ("frame_id", pa.string()),
            ("formula", pa.string()),
            ("n_atoms", pa.int64()),
            ("max_force", pa.float64()),
            ("energy_error", pa.float64()),
            ("force_mae", pa.float64()),
            ("stress_mae", pa.float64()),
            *FAILURE_COLUMNS,
        ]
    )
    identity = ("label_id", "formula")
    table = (
        "model",
        "dataset",
        "n_items",
        "n_failed",
        "energy_mae_mev_per_atom",
        "energy_mean_error_mev_per_atom",
        "force_mae_mev_per_a",
        "stress_mae_gpa",
    )

    def subject(self, wanted: Wanted) -> Subject | None:
        """Return the release; its content hash is its identity."""
        if wanted.release is None:
            return None
        return Subject(wanted.release["release_id"], {"content_hash": wanted.release["content_hash"]})

    def nothing(self) -> str:
        """Return what to do where there is no release."""
        return "There is no release to compare with; make one with 'aqvolt release create'."

    def metrics_of(self, metrics: Mapping[str, Any]) -> Row:
        """Return the overall errors, and the bins beside them."""
        overall = metrics.get("overall", {})
        return {name: overall.get(name) for name in self.table if name in overall} | {"bins": metrics.get("bins", [])}

    def check(self, parameters: ForceBinParameters, _argument: Any) -> None:
        """Raise unless the edges rise."""
        force_bins.check_edges(parameters.edges_ev_per_a)

    def compute(
        self,
        database: Database,
        potential: Potential,
        parameters: ForceBinParameters,
        argument: Any,
        progress: Progress | None,
    ) -> Measured:
        """Compare a model with the labels of one split of the release with this identity."""
        release = database.find_by_ids("releases", [argument])[0]
        errors: list[force_bins.ItemErrors] = []
        rows: list[Row] = []
        for items in read_release(release_folder(database, release), parameters.split):
            found = evaluate_each(potential.evaluate, [i.atoms for i in items])
            batch = [force_bins.item_errors(i.reference, f) for i, f in zip(items, found, strict=True)]
            rows += [
                {"label_id": e.item_id, "frame_id": i.frame_id, "formula": i.formula} | error_row(e)
                for i, e in zip(items, batch, strict=True)
            ]
            errors += batch
            if progress:
                progress(len(errors))
        if not errors:
            raise InputError(
                f"The split {parameters.split!r} of {argument} has no labels; choose another split, or make a larger "
                "release."
            )
        metrics = force_bins.aggregate(errors, parameters.edges_ev_per_a)
        return Measured(rows, metrics, f"{argument} {parameters.split}", argument)
