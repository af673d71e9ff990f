"""Why a record gives no structure: the kinds of reasons, and the error that carries one."""

from __future__ import annotations

#: Kind of reason → what it means; docs/candidates.md lists the same.
REFUSALS: dict[str, str] = {
    "not_json": "a document is not JSON, or not an object",
    "cut_off": "a compressed file is damaged or ends too early",
    "html": "the file is a web page",
    "unknown_format": "the file is of no format that is read",
    "missing_plugin": "a Python package that reads this format is not installed",
    "syntax": "the text breaks the rules of its format",
    "unreadable": "the reader failed for another reason, which is quoted",
    "no_structure": "there is no cell with atoms in it",
    "not_periodic": "the structure is not periodic in three directions",
    "cell": "a cell parameter is missing or unknown, or the cell is too small for its atoms",
    "cell_volume": "the stated volume is not that of the cell",
    "number": "a number is NaN, infinite or beyond 10⁴ Å",
    "count": "the number of atoms is not the one stated",
    "no_symbols": "there are no element symbols (VASP 4)",
    "unknown_element": "a symbol is not an element",
    "position": "an atom has no known position, or attached hydrogens have none",
    "occupancy": "an occupancy is unknown, negative or above 1",
    "composition": "the sites have another composition than the stated formula",
    "formula_units": "the number of formula units in the cell is not the stated one",
    "density": "the density is not the stated one",
    "no_symmetry": "neither operations nor a space group are given, and nothing shows that all atoms are listed",
    "symmetry": "operations, space group and cell contradict each other",
    "modulated": "the structure is modulated",
    "too_large": "the structure has too many atoms, or the file too many bytes",
}


class RecordError(ValueError):
    """A record that holds no usable structure.

    Parameters
    ----------
    message
        What was seen and what was expected.
    code
        A key of :data:`REFUSALS`.
    """

    def __init__(self, message: str, code: str = "unreadable") -> None:
        super().__init__(message)
        self.code = code
