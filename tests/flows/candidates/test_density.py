"""Densities of hosts: free atoms against their electron count, crystals against their voids, files and the bucket."""

from __future__ import annotations

import gzip
import json

import fsspec
import numpy as np
import pytest
from monty.json import MontyEncoder
from pymatgen.core import Lattice, Structure
from scipy.integrate import quad

from aqvolt_flows.candidates.density import (
    BUCKET,
    aeccar_files,
    atomic_density,
    fetch_aeccars,
    promolecular_density,
    read_aeccars,
)
from aqvolt_flows.errors import InputError, ResourceError

#: Fluorite MnCl2 (made up; CaF2's structure with a = 5.8 Å): cations at corners and faces, anions in the tetrahedra.
FLUORITE = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.8), ["Mn", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]])


@pytest.mark.parametrize(("element", "z"), [("F", 9), ("Cl", 17), ("Ti", 22), ("Br", 35), ("I", 53), ("W", 74)])
def test_a_free_atom_has_its_electrons(element, z):
    from periodictable.cromermann import getCMformula

    shell = lambda r: 4 * np.pi * r**2 * atomic_density(element, np.array([r]))[0]  # noqa: E731
    electrons = quad(shell, 0, 12, limit=400, points=[0.01, 0.03, 0.1, 0.3, 1.0])[0]
    factor = getCMformula(element)
    nucleus = factor.c + sum(a for a, b in zip(factor.a, factor.b, strict=True) if b <= 0.01)  # points, not on the grid
    assert electrons + nucleus == pytest.approx(z, abs=0.05)  # the fit itself misses 0.04 of W


def test_every_atom_falls_off_monotonically_where_li_could_sit():
    from periodictable import elements

    r = np.linspace(0.5, 5.0, 100)
    for z in range(1, 84):
        density = atomic_density(elements[z].symbol, r)
        assert (density > 0).all(), elements[z].symbol
        assert (np.diff(density) < 0).all(), elements[z].symbol


def test_a_promolecule_sums_all_periodic_images():
    density = promolecular_density(FLUORITE, spacing_a=0.3)
    shape = np.array(density.data["total"].shape)
    point = np.array([3, 7, 5])
    frac = point / shape
    expected = 0.0  # brute force: every image in 5 × 5 × 5 cells
    for shift in np.ndindex(5, 5, 5):
        for site in FLUORITE:
            r = np.linalg.norm((site.frac_coords + np.array(shift) - 2 - frac) @ FLUORITE.lattice.matrix)
            expected += float(atomic_density(site.specie.symbol, np.array([r]))[0]) if r <= 6.0 else 0.0
    assert density.data["total"][tuple(point)] / FLUORITE.volume == pytest.approx(expected, rel=1e-4)


def test_fluorites_least_dense_point_is_the_octahedral_void():
    density = promolecular_density(FLUORITE, spacing_a=0.2)
    values = density.data["total"]
    lowest = np.array(np.unravel_index(values.argmin(), values.shape)) / values.shape
    # 4b of Fm-3m, the empty octahedra of fluorite: (1/2, 1/2, 1/2) and face-centered images
    octahedra = [(0.5, 0.5, 0.5), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)]
    distances = FLUORITE.lattice.get_all_distances([lowest], octahedra)
    assert distances.min() < 0.2


def test_aeccars_are_summed_from_files_plain_or_gzipped(tmp_path):
    half = promolecular_density(FLUORITE, spacing_a=0.5)
    half.write_file(str(tmp_path / "AECCAR0"))
    assert aeccar_files(tmp_path) == (tmp_path / "AECCAR0", None)
    with pytest.raises(InputError, match="no AECCAR2"):
        read_aeccars(tmp_path)
    (tmp_path / "AECCAR2.gz").write_bytes(gzip.compress((tmp_path / "AECCAR0").read_bytes()))
    assert aeccar_files(tmp_path) == (tmp_path / "AECCAR0", tmp_path / "AECCAR2.gz")
    total = read_aeccars(tmp_path)
    assert total.data["total"] == pytest.approx(2 * half.data["total"], rel=1e-6)
    (tmp_path / "AECCAR0").write_text("not a density")
    with pytest.raises(InputError, match="cannot be read"):
        read_aeccars(tmp_path)


def test_densities_of_different_grids_are_refused(tmp_path):
    promolecular_density(FLUORITE, spacing_a=0.5).write_file(str(tmp_path / "AECCAR0"))
    promolecular_density(FLUORITE, spacing_a=0.6).write_file(str(tmp_path / "AECCAR2"))
    with pytest.raises(InputError, match="one calculation"):
        read_aeccars(tmp_path)


def test_the_buckets_layout_is_read_through_any_filesystem():
    memory = fsspec.filesystem("memory")
    density = promolecular_density(FLUORITE, spacing_a=0.6)
    document = {"fs_id": "1", "data": json.loads(json.dumps(density, cls=MontyEncoder))}
    for kind in ("aeccar0s", "aeccar2s"):
        memory.pipe_file(f"{BUCKET}/{kind}/mp-1.json.gz", gzip.compress(json.dumps(document).encode()))
    found = fetch_aeccars("mp-1", memory)
    assert found is not None
    assert found.data["total"] == pytest.approx(2 * density.data["total"], rel=1e-9)
    assert fetch_aeccars("mp-2", memory) is None


def test_a_bucket_that_does_not_answer_is_a_sentence():
    class Dead:
        def cat_file(self, key):
            raise ConnectionError("no route to host")

    with pytest.raises(ResourceError, match=r"did not give .*no route to host.*AECCAR files"):
        fetch_aeccars("mp-1", Dead())
