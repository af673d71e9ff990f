"""Structures near equilibrium, displaced and relaxed again (Figure 5): whether they come back, and at which energy.

Definition, from section 3.2.1 of the paper. Every site is displaced by exactly 0.1 Å in a random direction, then
positions and cell are relaxed with FIRE and a Fréchet cell filter until forces of atoms and cell are below 0.05 eV/Å.
The distance to the reference is the Euclidean distance between matminer's ``SiteStatsFingerprint`` of
``CrystalNNFingerprint`` (Zimmermann and Jain, RSC Adv. 10, 6063 (2020)), with the presets that the Materials Project
compares structures with: ``ops``, no distance cutoffs, x_diff_weight 0; mean, standard deviation, minimum and maximum
over the sites. The reference is the structure as given: it is the DFT-relaxed one only where the set says so.

The fingerprint jumps where a site is ideal: the order parameter "pentagonal pyramidal CN_6" is 0.5 for an exact
octahedron and 0.4 for one that is distorted by 10⁻⁹ Å, so that rock salt is 0.173 away from itself. A relaxed structure
is never exact. ``distance`` therefore compares with the reference moved by :data:`NUDGE_A`, which makes it as generic
as the other and takes the jump out; ``distance_as_given`` is the distance to the reference as it is, the paper's.

Formation energies are those of the relaxed structure against elements relaxed by the same model, whose geometries are
the MatPES r2SCAN ground states that matcalc ships. The paper does not say how many steps a relaxation may take, nor
what becomes of one that does not end: here it is counted as failed, with its reason, and has no distance.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.benchmarks.bootstrap import mean_interval
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.identity import content_hash
from aqvolt_flows.schemas.provenance import Failure

Array = NDArray[np.float64]
#: Å by which every site of a reference is moved, so that no site is exactly ideal.
NUDGE_A = 1e-5
STATISTICS = ("mean", "std_dev", "minimum", "maximum")
_ELEMENTS = "elemental_refs/MatPES-r2SCAN-Element-Refs.json.gz"
_INSTALL = "pip install 'aqvolt-flows[benchmarks]'"


def displaced(structure: Structure, length_a: float, seed: int, identity: str) -> Structure:
    """Return a copy whose every site is moved by ``length_a`` (Å) in a direction that is uniform on the sphere.

    Directions depend on the seed and the structure's identity alone, not on what else is in the set.
    """
    rng = np.random.default_rng(int(content_hash([seed, identity])[:16], 16))
    directions = rng.normal(size=(len(structure), 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    positions = structure.cart_coords + length_a * directions
    return Structure(structure.lattice, [s.specie.symbol for s in structure], positions, coords_are_cartesian=True)


@cache
def _featurizer() -> Any:
    if importlib.util.find_spec("matminer") is None:
        raise ResourceError(f"The relaxation benchmark needs matminer; {_INSTALL}.")
    from matminer.featurizers.site import CrystalNNFingerprint
    from matminer.featurizers.structure import SiteStatsFingerprint

    sites = CrystalNNFingerprint.from_preset("ops", distance_cutoffs=None, x_diff_weight=0)
    return SiteStatsFingerprint(sites, stats=STATISTICS)


def fingerprint(structure: Structure) -> Array | Failure:
    """Return the fingerprint of a structure, or why it has none (no neighbors found, degenerate Voronoi cells).

    Raises
    ------
    ResourceError
        If matminer is not installed.
    """
    featurizer = _featurizer()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CrystalNN says for every structure that it has no oxidation states
            found = np.asarray(featurizer.featurize(structure), dtype=np.float64)
    except Exception as error:  # noqa: BLE001 - near-neighbor finding fails in many ways; it becomes the reason
        said = " ".join(str(error).split())[:200]
        return Failure(reason="no_fingerprint", message=f"{type(error).__name__}: {said}")
    if not np.isfinite(found).all():
        return Failure(reason="no_fingerprint", message="The fingerprint has numbers that are not finite.")
    return found


def distance(a: Array | Failure, b: Array | Failure) -> float | Failure:
    """Return the Euclidean distance of two fingerprints, or the failure of one."""
    if isinstance(a, Failure):
        return a
    if isinstance(b, Failure):
        return b
    return float(np.linalg.norm(a - b))


@cache
def element_structures() -> dict[str, Structure]:
    """Return element → MatPES r2SCAN ground state, from the table that matcalc ships; empty without matcalc.

    Only the file is read: importing matcalc would ask a server for its list of models.
    """
    spec = importlib.util.find_spec("matcalc")
    if spec is None or spec.origin is None:
        return {}
    path = Path(spec.origin).parent / _ELEMENTS
    if not path.is_file():
        return {}
    with gzip.open(path, "rt") as handle:
        table = json.load(handle)
    return {symbol: Structure.from_dict(entry["structure"]) for symbol, entry in table.items()}


def formation_energy(structure: Structure, energy: float, elements: dict[str, float]) -> float | None:
    """Return the formation energy (eV/atom) against energies per atom of the elements; None where one is missing.

    E_f = (E − Σ_X n_X e_X) / N.
    """
    amounts = structure.composition.get_el_amt_dict()
    if not amounts.keys() <= elements.keys():
        return None
    return float((energy - sum(n * elements[x] for x, n in amounts.items())) / len(structure))


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means and medians of the rows with a number; the counts beside them say of how many.

    The medians rank every row without a number above every distance, so that failing does not make a model look
    better; None where half have failed.
    """
    distances = [r["distance"] for r in rows if r["distance"] is not None]
    as_given = [r["distance_as_given"] for r in rows if r["distance_as_given"] is not None]
    missing = len(rows) - len(distances)
    ranked = float(np.median([*distances, *[np.inf] * missing])) if distances else np.inf
    started = [r["distance_displaced"] for r in rows if r["distance_displaced"] is not None]
    formation = [r["formation_energy_per_atom"] for r in rows if r["formation_energy_per_atom"] is not None]
    errors = [r["formation_energy_error"] for r in rows if r["formation_energy_error"] is not None]
    return {
        "n_distances": len(distances),
        "mean_distance_computed": float(np.mean(distances)) if distances else None,
        "mean_distance_interval": mean_interval(rows, "distance"),
        "mean_distance_as_given_computed": float(np.mean(as_given)) if as_given else None,
        "median_distance": ranked if np.isfinite(ranked) else None,
        "mean_distance_displaced": float(np.mean(started)) if started else None,
        "n_formation_energies": len(formation),
        "n_formation_energy_references": len(errors),
        "formation_energy_mae_mev_per_atom": 1e3 * float(np.mean(np.abs(errors))) if errors else None,
    }
