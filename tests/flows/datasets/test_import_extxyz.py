"""Labels in extended XYZ as training sets write them: keys, units, signs, periodicity; numbers against ase.io.read.

Factors come from outside the package: 1 hartree = 27.211386 eV, 1 bohr = 0.529177211 Å (CODATA 2018),
1 eV/Å³ = 160.21766 GPa. A virial is −V·stress (QUIP's and NequIP's documentation).
"""

from __future__ import annotations

import io
import random

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aqvolt_flows.datasets.importers.files import read_labels
from aqvolt_flows.datasets.importers.intake import label_from_import
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import Broken, Imported, ImportOptions, frame_identity
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key

HARTREE, BOHR, GPA = 27.211386245988, 0.529177210903, 1 / 160.21766
VOLUME = 5.1**3
LATTICE = 'Lattice="5.1 0 0 0 5.1 0 0 0 5.1"'
ATOMS = "Li 0 0 0 0.1 0.2 0.3\nCl 2.5 2.5 2.4 -0.1 -0.2 -0.3\n"
#: xx xy xz yx yy yz zx zy zz, and the same as xx yy zz yz xz xy.
NINE, SIX = "1 6 5 6 2 4 5 4 3", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def block(comment, forces="forces", atoms=ATOMS, lattice=LATTICE):
    return f"2\n{lattice} Properties=species:S:1:pos:R:3:{forces}:R:3 {comment}\n{atoms}"


def options(**given):
    return ImportOptions(source="extxyz", dataset="mine", **given)


def read(path, text, notes=None, **given):
    path.write_text(text)
    return list(read_labels(path, options(**given), notes))


def one(path, text, **given):
    (entry,) = read(path, text, **given)
    assert isinstance(entry, Imported), entry
    return entry.outcome


def refused(path, text, **given):
    (entry,) = read(path, text, **given)
    assert isinstance(entry, Broken), entry
    return entry.reason


class TestKeys:
    """One row a form that real sets have; what it must give does not depend on the form."""

    @pytest.mark.parametrize(
        ("comment", "forces", "stress"),
        [
            (f'energy=-7.5 stress="{NINE}"', "forces", SIX),  # ASE
            ('energy=-7.5 stress="1 2 3 4 5 6"', "forces", SIX),  # six numbers, which ASE's reader refuses
            (f'Energy=-7.5 virial="{NINE}"', "force", [-x / VOLUME for x in SIX]),  # QUIP, dpdata
            (f'energy=-7.5 virials="{NINE}"', "force", [-x / VOLUME for x in SIX]),  # DeePMD
            ('energy=-7.5 virial="1 2 3 4 5 6"', "force", [-x / VOLUME for x in SIX]),
            (f'REF_energy=-7.5 REF_virial="{NINE}"', "REF_forces", [-x / VOLUME for x in SIX]),  # autoplex
            (f'REF_energy=-7.5 REF_stress="{NINE}"', "REF_forces", SIX),  # MACE
            (f'dft_energy=-7.5 dft_stress="{NINE}"', "dft_forces", SIX),
            (f'DFT_energy=-7.5 DFT_virial="{NINE}"', "DFT_force", [-x / VOLUME for x in SIX]),
            (f'free_energy=-7.5 stress="{NINE}"', "forces", SIX),
            (f'energy=-7.5 free_energy=-7.6 stress="{NINE}"', "forces", SIX),  # ASE's pair: energy is e_0
            (f'REF_energy=-7.5 dft_energy=-7.5 stress="{NINE}"', "forces", SIX),  # twice the same
        ],
    )
    def test_common_names_are_known(self, tmp_path, comment, forces, stress):
        outcome = one(tmp_path / "x.xyz", block(comment, forces))
        assert outcome.energy == -7.5
        np.testing.assert_allclose(outcome.forces, [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
        np.testing.assert_allclose(outcome.stress, stress, rtol=1e-12)

    def test_a_prediction_beside_its_reference_is_refused_until_one_is_named(self, tmp_path):
        text = block(f'energy=-7.4 REF_energy=-7.5 stress="{NINE}"')
        reason = refused(tmp_path / "x.xyz", text)
        assert reason.startswith("two_keys: it has energy -7.4 and REF_energy -7.5, which differ")
        assert "--energy-key" in reason
        assert one(tmp_path / "x.xyz", text, energy_key="REF_energy").energy == -7.5
        assert one(tmp_path / "x.xyz", text, energy_key="energy").energy == -7.4

    def test_predicted_forces_too(self, tmp_path):
        text = (
            f'2\n{LATTICE} Properties=species:S:1:pos:R:3:force:R:3:REF_forces:R:3 energy=1 stress="{NINE}"\n'
            "Li 0 0 0 0.1 0 0 0.2 0 0\nCl 2.5 2.5 2.4 -0.1 0 0 -0.2 0 0\n"
        )
        assert "force and REF_forces, which differ (name one with --forces-key)" in refused(tmp_path / "x.xyz", text)
        assert one(tmp_path / "x.xyz", text, forces_key="REF_forces").forces[0][0] == 0.2

    def test_a_quantity_that_is_predicted_only(self, tmp_path):
        """QUIP's files: energy twice, and equal by chance; the virial is the prediction's."""
        text = (
            f'2\n{LATTICE} Properties=species:S:1:pos:R:3:REF_forces:R:3 energy=1 REF_energy=1 virial="{NINE}"\n'
            "Li 0 0 0 0.2 0 0\nCl 2.5 2.5 2.4 -0.2 0 0\n"
        )
        reason = refused(tmp_path / "x.xyz", text)
        assert "virial, perhaps a prediction, beside keys of a reference (name it with --virial-key)" in reason
        assert one(tmp_path / "x.xyz", text, virial_key="virial").energy == 1
        mixed = text.replace("energy=1 REF_energy=1", "REF_energy=1")  # names of two kinds, nothing twice
        assert one(tmp_path / "x.xyz", mixed).energy == 1

    def test_stress_and_virial_must_agree(self, tmp_path):
        virial = " ".join(str(-x * VOLUME) for x in np.array(NINE.split(), float))
        good = block(f'energy=1 stress="{NINE}" virial="{virial}"')
        np.testing.assert_allclose(one(tmp_path / "x.xyz", good).stress, SIX)
        bad = block(f'energy=1 stress="{NINE}" virial="{NINE}"')
        assert "is not −virial/volume" in refused(tmp_path / "x.xyz", bad)
        np.testing.assert_allclose(one(tmp_path / "x.xyz", bad, stress_key="stress").stress, SIX)
        np.testing.assert_allclose(one(tmp_path / "x.xyz", bad, virial_key="virial").stress, [-x / VOLUME for x in SIX])

    def test_what_is_missing_lists_the_keys_that_are_there(self, tmp_path):
        reason = refused(tmp_path / "x.xyz", block("mace_energy=1 config_type=bulk", "mace_forces"))
        assert reason.startswith(
            "no_energy: it has no energy under a known name (name it with --energy-key); no forces"
        )
        assert reason.endswith("no stress or virial; its keys are mace_forces, mace_energy, config_type")
        text = block(f'mace_energy=1 t="{NINE}"', "mace_forces")
        found = one(tmp_path / "x.xyz", text, energy_key="mace_energy", forces_key="mace_forces", stress_key="t")
        np.testing.assert_allclose(found.stress, SIX)

    def test_a_named_key_that_is_not_there_is_told(self, tmp_path):
        reason = refused(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}"'), energy_key="dft")
        assert "no key 'dft', which --energy-key names; its keys are forces, energy, stress" in reason

    def test_what_is_not_read_is_noted(self, tmp_path):
        notes = Notes()
        read(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}" config_type=bulk d3=0.1'), notes)
        assert notes.sentences()[-1] == "Not read: config_type, d3."
        assert "taken as r2SCAN" in notes.sentences()[0]
        notes = Notes()
        read(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}"'), notes, functional="r2SCAN")
        assert notes.sentences() == []

    def test_further_results_are_kept(self, tmp_path):
        text = (
            f"2\n{LATTICE} Properties=species:S:1:pos:R:3:forces:R:3:magmoms:R:1:charges:R:1 energy=1 "
            f'stress="{NINE}" bandgap=5.5 fermi_level=-1.5 vbm=-4 cbm=1.5\n'
            "Li 0 0 0 0.1 0 0 0.01 0.9\nCl 2.5 2.5 2.4 -0.1 0 0 0.02 -0.9\n"
        )
        found = one(tmp_path / "x.xyz", text)
        assert (found.bandgap, found.efermi, found.vbm, found.cbm) == (5.5, -1.5, -4.0, 1.5)
        assert (found.magmoms, found.charges) == ([0.01, 0.02], [0.9, -0.9])

    def test_keys_belong_to_extxyz_and_one_tensor_is_enough(self):
        with pytest.raises(ValidationError, match="energy_key is of extxyz files"):
            ImportOptions(source="matpes", energy_key="e")
        with pytest.raises(ValidationError, match="stress_unit is of extxyz files; lemat has a unit of its own"):
            ImportOptions(source="lemat", stress_unit="GPa")
        with pytest.raises(ValidationError, match="name one quantity twice"):
            options(stress_key="a", virial_key="b")


class TestUnits:
    @pytest.mark.parametrize(
        ("declared", "energy", "force", "stress"),
        [
            ("energy-unit=hartree force-unit=hartree/bohr", HARTREE, HARTREE / BOHR, 1.0),  # dpdata's spelling
            (
                "energy_unit=Hartree forces_unit=Ha/Bohr stress-unit=au/bohr^3",
                HARTREE,
                HARTREE / BOHR,
                HARTREE / BOHR**3,
            ),
            ("energy-unit=au force-unit=a.u.", HARTREE, HARTREE / BOHR, 1.0),
            ("energy_unit=kcal/mol force-unit=kcal/mol/angstrom", 0.0433641042, 0.0433641042, 1.0),
            ("energy_unit=eV forces_unit=eV/Å stress_unit=GPa", 1.0, 1.0, GPA),
            ("stress_unit=kbar", 1.0, 1.0, -0.1 * GPA),
            ("stress_unit=-GPa", 1.0, 1.0, -GPA),
        ],
    )
    def test_declared_units_are_converted(self, tmp_path, declared, energy, force, stress):
        found = one(tmp_path / "x.xyz", block(f'energy=-7.5 stress="{NINE}" {declared}'))
        assert found.energy == pytest.approx(-7.5 * energy, rel=1e-7)
        assert found.forces[0][2] == pytest.approx(0.3 * force, rel=1e-7)
        np.testing.assert_allclose(found.stress, np.array(SIX) * stress, rtol=1e-6)

    @pytest.mark.parametrize("how", ["declared", "asked"])
    def test_a_virial_has_the_unit_of_the_energy(self, tmp_path, how):
        comment = f'energy=1 virial="{NINE}"'
        if how == "declared":
            found = one(tmp_path / "x.xyz", block(f"{comment} energy-unit=hartree"))
        else:
            found = one(tmp_path / "x.xyz", block(comment), units="energy=hartree")
        np.testing.assert_allclose(found.stress, -np.array(SIX) * HARTREE / VOLUME, rtol=1e-7)

    def test_units_of_the_options(self, tmp_path):
        text = block(f'energy=1 stress="{NINE}"')
        found = one(tmp_path / "x.xyz", text, units="energy=rydberg, forces=rydberg/bohr, stress=GPa, length=bohr")
        assert found.energy == pytest.approx(HARTREE / 2)
        assert found.forces[0][2] == pytest.approx(0.3 * HARTREE / 2 / BOHR)
        np.testing.assert_allclose(found.stress, np.array(SIX) * GPA, rtol=1e-6)
        np.testing.assert_allclose(np.diag(found.cell), 5.1 * BOHR)
        assert one(tmp_path / "x.xyz", text, units="atomic").stress[0] == pytest.approx(HARTREE / BOHR**3)

    def test_an_unknown_one_is_named_and_so_are_two(self, tmp_path):
        text = block(f'energy=1 stress="{NINE}" energy-unit=nonsense')
        assert "its energy_unit is 'nonsense'; expected eV, meV, hartree" in refused(tmp_path / "x.xyz", text)
        text = block(f'energy=1 stress="{NINE}" energy-unit=hartree')
        assert "--units says eV; leave one out" in refused(tmp_path / "x.xyz", text, units="energy=eV")
        with pytest.raises(InputError, match="unit of energy 'furlong' is not known"):
            options(units="energy=furlong").named_units()
        with pytest.raises(InputError, match="no unit of 'mass'"):
            options(units="mass=u").named_units()
        with pytest.raises(InputError, match="expected QUANTITY=UNIT"):
            options(units="eV").named_units()
        with pytest.raises(InputError, match="leave one out"):
            read_labels(tmp_path / "x.xyz", options(units="stress=GPa", stress_unit="kbar"))


class TestPeriodicity:
    @pytest.mark.parametrize("pbc", ["F F F", "T T F", "F T T"])
    def test_flags_are_never_overwritten(self, tmp_path, pbc):
        reason = refused(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}" pbc="{pbc}"'))
        assert reason.startswith(f"not_periodic: its pbc is {pbc}")

    def test_periodic_frames_and_those_with_a_lattice_only(self, tmp_path):
        assert one(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}" pbc="T T T"')).energy == 1
        assert one(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}"')).energy == 1
        assert one(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}" pbc=T')).energy == 1
        assert "not_periodic" in refused(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}" pbc=maybe'))
        reason = refused(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}"', lattice=""))
        assert reason.startswith("not_periodic: it has no Lattice")

    def test_the_good_frame_beside_a_slab_goes_in(self, tmp_path):
        good = block(f'energy=1 stress="{NINE}"')
        slab, found = read(tmp_path / "x.xyz", block(f'energy=2 stress="{NINE}" pbc="T T F"') + good)
        assert isinstance(slab, Broken)
        assert found.outcome.energy == 1


def test_a_frame_id_alone_is_no_identity(tmp_path):
    # nequip and others number the frames of each file; two files must not share identities by that
    first = one(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}" frame_id=7'))
    again = one(tmp_path / "x.xyz", block(f'energy=1 stress="{NINE}" frame_id=8'))
    assert first.frame_id == again.frame_id == frame_identity([3, 17], np.eye(3) * 5.1, [[0, 0, 0], [2.5, 2.5, 2.4]])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_identity_of_a_frame_is_the_content_key(seed):
    rng = np.random.default_rng(seed)
    cell, positions, numbers = rng.normal(size=(3, 3)), rng.normal(size=(4, 3)) * 10, rng.integers(1, 90, 4)
    positions[0] = -1e-9
    key = content_key(
        "imported-frame/1",
        numbers=[int(z) for z in numbers],
        cell=np.round(cell, 6) + 0.0,
        positions=np.round(positions, 6) + 0.0,
    )
    assert frame_identity(numbers, cell, positions) == f"frame-{key}"


def test_numbers_are_those_of_ase(tmp_path):
    """Ten frames as ASE writes them, with columns in another order and more of them than are read."""
    rng = np.random.default_rng(2)
    made = []
    for _ in range(10):
        atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
        atoms.set_cell(atoms.cell.array + rng.normal(scale=0.1, size=(3, 3)), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
        tensor = rng.normal(size=(3, 3))
        atoms.info |= {"REF_energy": rng.normal(), "REF_virial": tensor + tensor.T, "note": "a b"}
        atoms.arrays["REF_forces"] = rng.normal(size=(8, 3))
        atoms.arrays["tags"] = rng.integers(0, 3, 8)
        made.append(atoms)
    ase.io.write(tmp_path / "x.extxyz", made, format="extxyz")
    found = list(read_labels(tmp_path / "x.extxyz", options()))
    for entry, atoms in zip(found, ase.io.read(tmp_path / "x.extxyz", ":"), strict=True):
        outcome = entry.outcome
        assert outcome.energy == atoms.info["REF_energy"]
        np.testing.assert_array_equal(outcome.forces, atoms.arrays["REF_forces"])
        np.testing.assert_array_equal(outcome.positions, atoms.positions)
        np.testing.assert_array_equal(outcome.cell, atoms.cell.array)
        virial = np.reshape(atoms.info["REF_virial"], (3, 3))
        expected = -virial.ravel()[[0, 4, 8, 5, 2, 1]] / atoms.get_volume()
        np.testing.assert_allclose(outcome.stress, expected, rtol=1e-12)
        assert label_from_import(entry, options()).status == "valid"


GOOD = block(f'energy=-7.5 stress="{NINE}" pbc="T T T" config_type=bulk')
LAST = block(f'energy=-8.5 stress="{NINE}"', atoms=ATOMS.replace("2.4", "2.3"))

DAMAGE = ("", "x", " ", "\n", '"', "=", "9", "-", "nan", "1e999", "é", "\x00", ":", "{")


@given(st.randoms(use_true_random=False), st.integers(1, 6))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_gives_a_traceback_or_loses_the_good_frames(tmp_path, rng: random.Random, n):
    """Characters are changed, removed and added in the frame between two good ones."""
    text = list(GOOD)
    for _ in range(n):
        place = rng.randrange(len(text))
        text[place] = rng.choice(
            ["", "x", " ", "\n", '"', "=", "9", "-", "nan", "1e999", "é", "\x00", text[place] * 3, ":", "{"]
        )
    path = tmp_path / "x.xyz"
    path.write_text(LAST + "".join(text) + "\n" + GOOD.replace("-7.5", "-9.5"))
    found = list(read_labels(path, options()))
    assert [e.outcome.energy for e in found[:1]] == [-8.5]
    assert all(isinstance(e, Imported | Broken) for e in found)
    for entry in found:
        if isinstance(entry, Imported):
            label_from_import(entry, options())
    # a count of atoms that was mutated may claim lines of the frame behind it; any other damage leaves it whole
    if "".join(text).split("\n")[0] == "2" and "".join(text).count("\n") == 4:
        assert isinstance(found[-1], Imported)
        assert found[-1].outcome.energy == -9.5


@pytest.mark.parametrize("number", ["nan", "inf", "1e999", "1e308", "-1e308", "1e30"])
@pytest.mark.parametrize("where", ["energy", "stress", "virial", "force", "position", "cell"])
def test_a_number_beyond_all_measure_is_named_wherever_it_is(tmp_path, number, where):
    text = GOOD if where != "virial" else GOOD.replace("stress=", "virial=")
    old, new = {
        "energy": ("-7.5", number),
        "stress": ("1 6 5 6", f"{number} 6 5 6"),
        "virial": ("1 6 5 6", f"1 {number} 5 6"),
        "force": ("0.1 0.2", f"0.1 {number}"),
        "position": ("2.5 2.5", f"2.5 {number}"),
        "cell": ("5.1 0 0 0 5.1", f"{number} 0 0 0 5.1"),
    }[where]
    reason = refused(tmp_path / "x.xyz", text.replace(old, new, 1))
    assert any(word in reason for word in ("finite", "NaN", "no unit", "not extended XYZ"))


def test_six_numbers_of_a_key_with_a_like_name_stay_what_they_are(tmp_path):
    text = block(f'energy=1 stress="{NINE}" max-stress=3 note="stress=4 virial = 5"')
    assert one(tmp_path / "x.xyz", text).energy == 1
    assert ase.io.read(io.StringIO(text), format="extxyz").info["max-stress"] == 3
