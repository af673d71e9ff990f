"""POTCARs of this machine: where they are, what is in them, and whether they are those of the theory level.

POTCARs are licensed and never leave the machine: what is kept of one is its symbol, its title line and the SHA-256
of its text.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.vasp.settings import potcar_functional, potcar_symbol

POTCAR_VARIABLE = "PMG_VASP_PSP_DIR"
#: VASP's word for the functional of a PBE dataset, LEXCH in POTCAR (VASP wiki, POTCAR).
LEXCH = "PE"
_DATASET_END = "End of Dataset"

PotcarStatus = Literal[
    "ok", "missing", "unreadable", "wrong_element", "wrong_dataset", "wrong_functional", "wrong_hash"
]


class WrongPotcarError(ResourceError):
    """A POTCAR is there and is not the one that the theory level names."""


@dataclass(frozen=True)
class PotcarRow:
    """One element's POTCAR.

    Attributes
    ----------
    element, symbol
        e.g. Li and Li_sv, which MatPES uses for it; the symbol is empty where MatPES names none.
    status
        ``ok``, or the first thing that is wrong with it.
    sha256
        Of its text, :func:`potcar_sha256`; empty where there is no file.
    title
        TITEL as the file gives it.
    detail
        One sentence: what was seen and expected; empty where all is well.
    """

    element: str
    symbol: str
    status: PotcarStatus
    sha256: str = ""
    title: str = ""
    detail: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the fields as a mapping."""
        return asdict(self)


@dataclass(frozen=True)
class Dataset:
    """What is read of one dataset's text: TITEL, the element of VRHFIN, LEXCH, SHA-256."""

    title: str
    element: str
    lexch: str
    sha256: str

    @property
    def symbol(self) -> str:
        """The symbol in the title: Li_sv of ``PAW_PBE Li_sv 10Sep2004``."""
        words = self.title.split()
        return words[1] if len(words) > 1 else ""


def potcar_sha256(data: str) -> str:
    """Return the SHA-256 of a POTCAR's text up to its end mark, without white space at the ends of lines.

    The same dataset hashes the same from a file of its own and from a POTCAR of several.
    """
    dataset = data.partition(_DATASET_END)[0].strip()
    return hashlib.sha256("\n".join(line.rstrip() for line in dataset.splitlines()).encode()).hexdigest()


def datasets_in(text: str) -> list[Dataset]:
    """Return the datasets of a POTCAR in their order.

    Raises
    ------
    InputError
        If a dataset lacks TITEL, VRHFIN or LEXCH, as a cut or foreign file does.
    """
    blocks = [block for block in re.split(rf"{_DATASET_END}[^\n]*\n?", text) if block.strip()]
    return [_dataset(block) for block in blocks]


def _dataset(block: str) -> Dataset:
    found = {}
    for name in ("TITEL", "VRHFIN", "LEXCH"):
        match = re.search(rf"^\s*{name}\s*=\s*([^\n]*)", block, re.MULTILINE)
        if match is None:
            raise InputError(f"A POTCAR dataset has no {name}; expected a file as VASP distributes it.")
        found[name] = match.group(1).strip()
    element = found["VRHFIN"].partition(":")[0].strip()
    return Dataset(found["TITEL"], element, found["LEXCH"].split()[0], potcar_sha256(block))


def potcar_folder() -> Path:
    """Return the folder of POTCARs that pymatgen is configured with.

    Raises
    ------
    ResourceError
        If none is configured, or it is not there.
    """
    from pymatgen.core import SETTINGS

    folder = SETTINGS.get(POTCAR_VARIABLE) or os.environ.get(POTCAR_VARIABLE)
    if not folder:
        raise ResourceError(
            f"{POTCAR_VARIABLE} is not set; set it to the folder that 'pmg config -p' made from your licensed VASP "
            "pseudopotentials, or choose another labeler."
        )
    if not Path(folder).expanduser().is_dir():
        raise ResourceError(f"{POTCAR_VARIABLE} names {folder}, which is not a folder; correct it.")
    return Path(folder).expanduser()


def potcar_path(symbol: str, folder: Path | None = None) -> Path | None:
    """Return the file of a POTCAR where pymatgen looks for it, gzip-ed or not, or None.

    Parameters
    ----------
    symbol
        e.g. ``Li_sv``.
    folder
        The folder of all releases; by default the configured one.
    """
    from pymatgen.core import SETTINGS
    from pymatgen.io.vasp.inputs import PotcarSingle

    release = potcar_functional()
    below = SETTINGS.get("PMG_VASP_PSP_SUB_DIRS", {}).get(release, PotcarSingle.functional_dir[release])
    root = (folder or potcar_folder()) / below
    tried = (root / f"POTCAR.{symbol}", root / symbol / "POTCAR")
    return next((p for name in tried for p in (name, Path(f"{name}.gz")) if p.is_file()), None)


def read_potcar_text(path: Path) -> str:
    """Return the text of a POTCAR file, gzip-ed or not.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("latin-1")
    except (OSError, EOFError) as error:
        raise InputError(f"{path.name} cannot be read ({error}).") from None


def potcar_report(
    elements: Iterable[str], folder: Path | None = None, expected: Mapping[str, str] | None = None
) -> list[PotcarRow]:
    """Return one row per element, sorted: whether its POTCAR is there and is the one that the theory level names.

    Parameters
    ----------
    elements
        Chemical symbols.
    folder
        The folder of all releases; by default the one that pymatgen is configured with.
    expected
        Element → SHA-256 that it must have (``labeling.potcar_hashes`` of the campaign, or what earlier labels used).

    Raises
    ------
    ResourceError
        If no folder of POTCARs is configured.
    """
    where = folder or potcar_folder()
    return [_row(element, where, (expected or {}).get(element)) for element in sorted(set(elements))]


def _row(element: str, folder: Path, expected: str | None) -> PotcarRow:
    try:
        symbol = potcar_symbol(element)
    except InputError as error:
        return PotcarRow(element, "", "missing", detail=str(error))
    release = potcar_functional()
    path = potcar_path(symbol, folder)
    if path is None:
        return PotcarRow(element, symbol, "missing", detail=f"there is no {symbol} of {release}.")
    try:
        found = datasets_in(read_potcar_text(path))
    except InputError as error:
        return PotcarRow(element, symbol, "unreadable", detail=str(error))
    if len(found) != 1:
        return PotcarRow(element, symbol, "unreadable", detail=f"it holds {len(found)} datasets; expected 1.")
    (dataset,) = found
    status, detail = _fault(dataset, element, symbol, expected)
    return PotcarRow(element, symbol, status, dataset.sha256, dataset.title, detail)


def _fault(dataset: Dataset, element: str, symbol: str, expected: str | None) -> tuple[PotcarStatus, str]:
    if dataset.element != element:
        return "wrong_element", f"it is of {dataset.element} (VRHFIN); expected {element}."
    if dataset.lexch.upper() != LEXCH:
        return "wrong_functional", f"its LEXCH is {dataset.lexch}; expected {LEXCH}, a PBE dataset."
    if dataset.symbol != symbol:
        return "wrong_dataset", f"its title is {dataset.title!r}; expected {symbol}."
    if expected is not None and dataset.sha256 != expected:
        return "wrong_hash", f"its text hashes to {dataset.sha256[:12]}…; expected {expected[:12]}…."
    return "ok", ""


def potcar_hashes(elements: Iterable[str], expected: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return element → SHA-256 of its POTCAR.

    Raises
    ------
    ResourceError
        Naming all that are missing.
    WrongPotcarError
        Naming all that are of another element, dataset, functional or hash, if none is missing.
    """
    rows = potcar_report(elements, expected=expected)
    missing = [f"{row.element} ({row.symbol or 'none in MatPES'})" for row in rows if row.status == "missing"]
    if missing:
        raise ResourceError(
            f"POTCARs of {potcar_functional()} are missing for {', '.join(missing)}; add them to the folder that "
            f"{POTCAR_VARIABLE} names."
        )
    wrong = [f"{row.symbol}: {row.detail.rstrip('.')}" for row in rows if row.status != "ok"]
    if wrong:
        raise WrongPotcarError(
            f"POTCARs are not those of the theory level ({'; '.join(wrong)}); put the files of {potcar_functional()} "
            f"into the folder that {POTCAR_VARIABLE} names."
        )
    return {row.element: row.sha256 for row in rows}


def potcar_drift(used: Iterable[Mapping[str, Any]], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return element → (earlier, now) where labels were made with another POTCAR than this machine has.

    Parameters
    ----------
    used
        ``protocol.potcar_hashes`` of finished labels.
    now
        :func:`potcar_hashes` of this machine.
    """
    drift = {}
    for hashes in used:
        for element, sha256 in hashes.items():
            if element in now and now[element] != sha256:
                drift[element] = (str(sha256), now[element])
    return dict(sorted(drift.items()))
