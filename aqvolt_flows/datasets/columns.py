"""The columns of a label, each in one place: name, type, unit, shape, meaning, and whether a label may lack it.

The Parquet schema, Croissant's fields, the table in the docs and what importers keep of a release all follow from
:data:`COLUMNS`; their order is that of the Parquet files and may only grow at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

_MATRIX = pa.list_(pa.list_(pa.float64()))
_VECTOR = pa.list_(pa.float64())


@dataclass(frozen=True)
class Column:
    """One column of a label.

    Attributes
    ----------
    name
        In Parquet, and of the attribute of :class:`~aqvolt_flows.datasets.rows.Row`.
    type
        Arrow type.
    meaning
        One phrase with the unit, for people and machines.
    shape
        Of arrays, as Croissant writes it; ``-1`` is the number of atoms.
    unit
        Empty for identities, words and counts.
    nullable
        A label may have none.
    added_later
        Releases of earlier versions lack it.
    """

    name: str
    type: pa.DataType
    meaning: str
    shape: str = ""
    unit: str = ""
    nullable: bool = False
    added_later: bool = False

    def shape_of(self, n_atoms: int) -> tuple[int, ...]:
        """Return the shape of a value for a configuration; empty for a single number or word."""
        return tuple(n_atoms if n == "-1" else int(n) for n in self.shape.split(",")) if self.shape else ()


COLUMNS: tuple[Column, ...] = (
    Column("frame_id", pa.string(), "Identity of the configuration."),
    Column("label_id", pa.string(), "Identity of configuration and protocol."),
    Column("trajectory_id", pa.string(), "The run that the configuration was sampled from, if any.", nullable=True),
    Column("candidate_id", pa.string(), "The structure that was simulated, if any.", nullable=True),
    Column("source", pa.string(), "sampled, aimd, or the name of an imported dataset."),
    Column("protocol", pa.string(), "How it was computed: code:functional@settings."),
    Column("formula", pa.string(), "Reduced formula."),
    Column("chemsys", pa.string(), "Element symbols in alphabetical order, joined by '-'."),
    Column("n_atoms", pa.int32(), "Number of atoms."),
    Column("temperature_k", pa.float64(), "Target temperature of the run, K, if known.", unit="K", nullable=True),
    Column("atomic_numbers", pa.list_(pa.int16()), "Atomic numbers.", "-1"),
    Column("positions", _MATRIX, "Cartesian positions, Å.", "-1,3", "Å"),
    Column("cell", _MATRIX, "Lattice vectors as rows, Å; periodic in all directions.", "3,3", "Å"),
    Column("energy", pa.float64(), "Total energy, eV.", unit="eV"),
    Column("forces", _MATRIX, "Forces, eV/Å.", "-1,3", "eV/Å"),
    Column("stress", _VECTOR, "Stress, eV/Å³, tension positive, order xx yy zz yz xz xy.", "6", "eV/Å³"),
    Column(
        "cohesive_energy_per_atom", pa.float64(), "(E − Σ E_atom)/N, eV/atom, if known.", unit="eV/atom", nullable=True
    ),
    Column("max_force", pa.float64(), "Largest force on an atom, eV/Å.", unit="eV/Å"),
    Column("pressure_gpa", pa.float64(), "Pressure, GPa, compression positive.", unit="GPa"),
    Column("magmoms", _VECTOR, "Magnetic moments, µB, if known.", "-1", "µB", nullable=True, added_later=True),
    Column("bandgap", pa.float64(), "Band gap, eV, if known.", unit="eV", nullable=True, added_later=True),
    Column(
        "record_id",
        pa.string(),
        "Identity in the dataset it was imported from, if any.",
        nullable=True,
        added_later=True,
    ),
    Column(
        "provenance",
        pa.string(),
        "JSON of what an imported or AIMD label says about its origin, if anything.",
        nullable=True,
        added_later=True,
    ),
    Column("efermi", pa.float64(), "Fermi level, eV, if known.", unit="eV", nullable=True, added_later=True),
    Column("vbm", pa.float64(), "Valence band maximum, eV, if known.", unit="eV", nullable=True, added_later=True),
    Column("cbm", pa.float64(), "Conduction band minimum, eV, if known.", unit="eV", nullable=True, added_later=True),
    Column(
        "charges",
        _VECTOR,
        "Charges of atoms, e, if known; provenance.charges says of which kind.",
        "-1",
        "e",
        nullable=True,
        added_later=True,
    ),
    Column(
        "head",
        pa.string(),
        "The protocol as the name of a model's head, where the release was asked for it.",
        nullable=True,
        added_later=True,
    ),
)
BY_NAME = {column.name: column for column in COLUMNS}
#: The Parquet files of a release.
SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])
#: Columns that releases of earlier versions lack.
OPTIONAL = tuple(column.name for column in COLUMNS if column.added_later)
#: What a calculation may give beside energy, forces and stress: copied from outcome to label to row by name.
RESULTS = ("magmoms", "bandgap", "efermi", "vbm", "cbm", "charges")


def column_table() -> list[dict[str, str]]:
    """Return a row of the docs' table for each column: name, type, unit, shape, meaning."""
    return [
        {
            "column": c.name,
            "type": str(c.type).replace("element: ", "").replace("item: ", ""),
            "null": "may be" if c.nullable else "",
            "shape": c.shape.replace("-1", "n_atoms"),
            "unit": c.unit,
            "meaning": c.meaning,
        }
        for c in COLUMNS
    ]
