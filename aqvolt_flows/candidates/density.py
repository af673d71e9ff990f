"""Charge densities of hosts: AECCAR files, the Materials Project's public bucket, or superposed atoms.

All of them become a pymatgen ``Chgcar`` in VASP's convention: electrons per Å³ times the cell's volume.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import IStructure, Structure

from aqvolt_flows.errors import InputError, ResourceError

if TYPE_CHECKING:
    from pymatgen.io.vasp import Chgcar

Array = NDArray[np.float64]

#: Public bucket of the Materials Project's parsed volumetric data; no credentials are needed.
BUCKET = "materialsproject-parsed"
#: Gaussians of a form factor narrower than this (Å²; standard deviation 0.011 Å) lie within the nucleus' grid point.
_MIN_B = 0.01
_EXTRA = "pip install 'aqvolt-flows[lithiation]'"


def sum_densities(first: Chgcar, second: Chgcar, names: tuple[str, str] = ("AECCAR0", "AECCAR2")) -> Chgcar:
    """Return the sum of two total densities on one grid: the core's AECCAR0 and the valence's AECCAR2.

    Raises
    ------
    InputError
        If their grids, cells or atoms differ, if only one of them has a spin density, or if a value is not finite.
    """
    from pymatgen.io.vasp import Chgcar, Poscar

    for density, name in zip((first, second), names, strict=True):
        if not np.isfinite(density.data["total"]).all():
            raise InputError(f"{name} holds values that are not finite; copy it again.")
    both = f"{names[0]} and {names[1]}"
    if first.dim != second.dim:
        said = f"{'×'.join(map(str, first.dim))} and {'×'.join(map(str, second.dim))} points"
        raise InputError(f"{both} have grids of {said}; take both from one calculation.")
    if not _same_atoms(first.structure, second.structure):
        raise InputError(f"{both} have other cells or atoms; take both from one calculation.")
    spins = [len(density.data) > 1 for density in (first, second)]
    if spins[0] != spins[1]:
        spin, plain = names if spins[0] else names[::-1]
        raise InputError(f"{spin} has a spin density and {plain} has none; take both from one calculation.")
    return Chgcar(Poscar(first.structure), {"total": first.data["total"] + second.data["total"]})


def _same_atoms(first: Structure | IStructure, second: Structure | IStructure) -> bool:
    if [s.specie.symbol for s in first] != [s.specie.symbol for s in second]:
        return False
    apart = np.asarray(first.frac_coords) - np.asarray(second.frac_coords)
    close = np.abs(apart - np.round(apart)).max() < 1e-4
    return bool(close and np.allclose(first.lattice.matrix, second.lattice.matrix, atol=1e-4))


def aeccar_files(folder: Path) -> tuple[Path | None, Path | None]:
    """Return AECCAR0 and AECCAR2 of a folder, each plain or gzipped; None where one is missing."""
    first, second = (
        next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        for name in ("AECCAR0", "AECCAR2")
    )
    return first, second


def read_aeccars(folder: Path) -> Chgcar:
    """Return AECCAR0 + AECCAR2 of one calculation's folder; each may be gzipped.

    Raises
    ------
    InputError
        If a file is missing or is no charge density, or if the two do not belong together; it is named.
    """
    from pymatgen.io.vasp import Chgcar

    parts, names = [], []
    for name, path in zip(("AECCAR0", "AECCAR2"), aeccar_files(folder), strict=True):
        if path is None:
            raise InputError(f"There is no {name} or {name}.gz in {folder}; insertion sites need AECCAR0 and AECCAR2.")
        try:
            parts.append(Chgcar.from_file(str(path)))
        except Exception as error:  # noqa: BLE001 - a broken file fails anywhere in pymatgen, numpy or zlib
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{path} cannot be read as a charge density ({said}); copy it again.") from None
        names.append(str(path))
    return sum_densities(parts[0], parts[1], (names[0], names[1]))


def fetch_aeccars(task_id: str, filesystem: Any = None) -> Chgcar | None:
    """Return AECCAR0 + AECCAR2 of a Materials Project task from the public bucket, or None if it has none.

    Parameters
    ----------
    task_id
        Identity of the static calculation, e.g. ``mp-1234567``.
    filesystem
        Any fsspec filesystem with the bucket's layout; default: Amazon S3, unsigned.

    Raises
    ------
    ResourceError
        If s3fs is not installed or the bucket does not answer.
    """
    parts = []
    for kind in ("aeccar0s", "aeccar2s"):
        data = _read_object(filesystem or _public_s3(), f"{BUCKET}/{kind}/{task_id}.json.gz")
        if data is None:
            return None
        parts.append(_parse_density(data, f"{kind}/{task_id}.json.gz"))
    return sum_densities(parts[0], parts[1], (f"aeccar0s/{task_id}", f"aeccar2s/{task_id}"))


def _public_s3() -> Any:
    try:
        import s3fs
    except ImportError:
        raise ResourceError(
            "AECCARs from the public bucket need s3fs; install it with pip install 'aqvolt-flows[s3]'."
        ) from None
    return s3fs.S3FileSystem(
        anon=True, config_kwargs={"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}
    )


def _read_object(filesystem: Any, key: str) -> bytes | None:
    try:
        return bytes(filesystem.cat_file(key))
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - botocore, aiohttp and fsspec each raise their own on a dead network
        raise ResourceError(
            f"The public bucket did not give {key} ({type(error).__name__}: {' '.join(str(error).split())}); check "
            "the network, or give AECCAR files in a folder."
        ) from None


def _parse_density(data: bytes, name: str) -> Chgcar:
    """Return the density of a JSON document; it is at the top level, or under ``data`` as atomate's store wrote it."""
    from monty.json import MontyDecoder
    from pymatgen.io.vasp import Chgcar

    try:
        text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        document = MontyDecoder().process_decoded(json.loads(text))
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{name} is not JSON of a charge density ({error}); fetch it again.") from None
    if isinstance(document, list):
        document = document[0] if document else None
    if isinstance(document, dict):
        document = document.get("data")
    if not isinstance(document, Chgcar):
        raise InputError(f"{name} holds a {type(document).__name__}; expected a pymatgen Chgcar.")
    return document


def atomic_density(element: str, distances: Array) -> Array:
    """Return the electron density of a free atom in electrons/Å³ at distances in Å.

    The Fourier transform of the analytic X-ray form factor f(s) = Σ aᵢ exp(−bᵢ s²) + c, s = |G|/4π, of D. Waasmaier
    and A. Kirfel, Acta Cryst. A 51, 416 (1995), DOI 10.1107/S0108767394013292, as the package periodictable holds
    it: ρ(r) = Σ aᵢ (4π/bᵢ)^{3/2} exp(−4π² r²/bᵢ). The constant c is a point at the nucleus and is left out.

    Raises
    ------
    InputError
        If the element has no form factor.
    """
    try:
        from periodictable.cromermann import getCMformula
    except ImportError:
        raise ResourceError(f"A promolecular density needs periodictable; install it with {_EXTRA}.") from None
    try:
        formula = getCMformula(element)
    except KeyError:
        raise InputError(f"{element} has no form factor; give AECCAR files for this host.") from None
    a, b = np.asarray(formula.a, dtype=float), np.asarray(formula.b, dtype=float)
    wide = b > _MIN_B
    a, b = a[wide, None], b[wide, None]
    r2 = np.asarray(distances, dtype=float).ravel()[None] ** 2
    total: Array = (a * (4 * np.pi / b) ** 1.5 * np.exp(-4 * np.pi**2 * r2 / b)).sum(axis=0)
    return total.reshape(np.shape(distances))


def promolecular_density(structure: Structure, spacing_a: float = 0.15, cutoff_a: float = 6.0) -> Chgcar:
    """Return the density of superposed free atoms, all periodic images within the cutoff included.

    It has no bonds, but its minima lie where a crystal's voids are. Not the paper's way: section 2.1 uses AECCARs.

    Parameters
    ----------
    structure
        An ordered host.
    spacing_a
        Largest distance of grid points along an axis, Å.
    cutoff_a
        Atoms are cut off here; free Cl has fallen below 10⁻⁸ electrons/Å³.
    """
    from pymatgen.io.vasp import Chgcar, Poscar

    lattice = structure.lattice
    shape = np.array([max(4, int(np.ceil(length / spacing_a))) for length in lattice.abc])
    grid = np.zeros(int(np.prod(shape)))
    offsets = _offsets_within(np.array(lattice.matrix), shape, cutoff_a)
    for site in structure:
        base = np.round(np.mod(site.frac_coords, 1.0) * shape).astype(int)
        points = base + offsets
        cartesian = (points / shape - np.mod(site.frac_coords, 1.0)) @ lattice.matrix
        values = atomic_density(site.specie.symbol, np.linalg.norm(cartesian, axis=1))
        flat = np.ravel_multi_index(tuple(np.mod(points, shape).T), tuple(shape))
        grid += np.bincount(flat, weights=values, minlength=grid.size)
    return Chgcar(Poscar(structure), {"total": grid.reshape(shape) * structure.volume})


def _offsets_within(matrix: Array, shape: NDArray[np.int64], cutoff_a: float) -> NDArray[np.int64]:
    """Return integer grid offsets whose length is at most the cutoff plus one grid step."""
    heights = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=0)  # distances between opposite faces of the cell
    reach = np.ceil(cutoff_a / heights * shape).astype(int) + 1
    axes = [np.arange(-n, n + 1) for n in reach]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    step = float(np.linalg.norm(matrix / shape[:, None], axis=1).max())
    near = np.linalg.norm((offsets / shape) @ matrix, axis=1) <= cutoff_a + step
    return offsets[near]
