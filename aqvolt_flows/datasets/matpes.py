"""Rows of a release as MatPES documents (Kaplan et al., arXiv:2503.04070), which matgl and others train on.

Written are the fields that a label knows: structure (with ``magmom`` where known), energy, forces, abs_forces, stress
(kbar, xx yy zz yz xz xy, VASP's sign), functional, bandgap, cohesive_energy_per_atom, what follows from the structure,
and the provenance; what an imported document said of its origin returns to its place, Bader charges included. What a
label does not know (Bader moments, symmetry) is left out, not invented.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from pymatgen.core import Composition, Lattice, Structure

from aqvolt_flows.aside import written_aside
from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.datasets.rows import Row
from aqvolt_flows.units import ase_stress_to_vasp

#: What MatPES and MP-ALOE documents say at their top level, and importers keep as provenance.
_TOP_LEVEL = (
    "formation_energy_per_atom",
    "ionic_step_number",
    "prototype_number",
    "is_charge_balanced",
    "has_overlapping_pseudo_cores",
)


def matpes_document(row: Row) -> dict[str, Any]:
    """Return a row as a MatPES document; ``matpes_id`` is the imported record's, else the frame's."""
    symbols = symbols_of(row.atomic_numbers)
    properties = None if row.magmoms is None else {"magmom": row.magmoms.tolist()}
    structure = Structure(
        Lattice(row.cell), symbols, row.positions, coords_are_cartesian=True, site_properties=properties
    )
    composition = Composition(row.formula)
    origin = orjson.loads(row.provenance) if row.provenance else {}
    is_bader = row.charges is not None and origin.pop("charges", None) == "bader"
    bader = {"bader_charges": row.charges.tolist()} if is_bader and row.charges is not None else {}
    own = {
        "md_temperature": row.temperature_k,
        "source": row.source,
        "protocol": row.protocol,
        "label_id": row.label_id,
        "trajectory_id": row.trajectory_id,
        "candidate_id": row.candidate_id,
    }
    return (
        {
            "matpes_id": row.record_id or row.frame_id,
            "structure": structure.as_dict(),
            "energy": row.energy,
            "energy_per_atom": row.energy / row.n_atoms,
            "forces": row.forces.tolist(),
            "abs_forces": np.linalg.norm(row.forces, axis=1).tolist(),
            "stress": ase_stress_to_vasp(row.stress).tolist(),
            "bandgap": row.bandgap,
            "functional": row.protocol.partition(":")[2].partition("@")[0],
            "cohesive_energy_per_atom": row.cohesive_energy_per_atom,
            "nsites": row.n_atoms,
            "elements": sorted(set(symbols)),
            "nelements": len(set(symbols)),
            "chemsys": row.chemsys,
            "composition": structure.composition.get_el_amt_dict(),
            "composition_reduced": composition.get_el_amt_dict(),
            "formula_pretty": row.formula,
            "formula_anonymous": composition.anonymized_formula,
            "density": float(structure.density),
            "density_atomic": float(structure.volume) / row.n_atoms,
            "volume": float(structure.volume),
            "provenance": own | {k: v for k, v in origin.items() if k not in _TOP_LEVEL},
        }
        | {k: origin[k] for k in _TOP_LEVEL if k in origin}
        | bader
    )


def write_matpes_json(target: Path, rows: Iterable[Row]) -> int:
    """Write rows as the gzipped JSON list that MatPES is published as, in a stream; return how many."""
    count = 0
    with (
        written_aside(target) as aside,
        aside.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as handle,
    ):
        handle.write(b"[")
        for row in rows:
            handle.write((b",\n" if count else b"") + orjson.dumps(matpes_document(row)))
            count += 1
        handle.write(b"]\n")
    return count
