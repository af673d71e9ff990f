"""Two theory levels on the same frames: shifts against known ones and scikit-learn, intervals against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from scipy.stats import bootstrap
from sklearn.linear_model import LinearRegression

from aqvolt_flows.datasets.align import align, compare, protocol_named
from aqvolt_flows.datasets.align_plot import draw
from aqvolt_flows.datasets.folder import verify
from aqvolt_flows.datasets.labels import label_from_outcome
from aqvolt_flows.datasets.pairs import Pair, find_pairs
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import ReleaseParameters
from aqvolt_flows.schemas.provenance import Protocol

A = Protocol(code="external", version="", functional="PBE", settings_hash="MatPES")
B = Protocol(code="external", version="", functional="r2SCAN", settings_hash="MatPES")
#: eV, what an atom weighs more in B than in A.
SHIFT = {"Li": -0.8, "Cl": 1.3, "F": 2.1}


def outcome(number, protocol, frame=None, order=None, noise=0.0, **changes):
    """Return a label of a rattled crystal; those of B are shifted, their forces turned and their stress larger."""
    rng = np.random.default_rng(number)
    formula = ("LiCl", "LiF", "Li")[number % 3]
    atoms = bulk(formula, "bcc" if formula == "Li" else "rocksalt", a=4.0 + 0.001 * number, cubic=True)
    atoms.rattle(0.05, rng=rng)
    forces = rng.normal(size=(len(atoms), 3))
    energy, stress = float(rng.normal()) - 3 * len(atoms), rng.normal(scale=0.01, size=6)
    if protocol == B:
        energy += sum(SHIFT[s] for s in atoms.symbols) + noise * len(atoms) * float(rng.normal())
        stress = stress + np.array([0.01, 0.01, 0.01, 0, 0, 0])
        forces = 1.1 * forces + np.array([0.1, 0, 0])
    order = np.arange(len(atoms)) if order is None else order
    values = {
        "frame_id": frame or f"frame-{number}", "key": "k", "status": "converged", "protocol": protocol,
        "atomic_numbers": atoms.numbers[order].tolist(), "positions": atoms.positions[order].tolist(),
        "cell": atoms.cell.array.tolist(), "energy": energy, "forces": forces[order].tolist(),
        "stress": stress.tolist(),
    }  # fmt: skip
    return LabelOutcome(**(values | changes))


def store(database, outcomes):
    database.upsert("labels", [label_from_outcome(o, None, None, source="mine") for o in outcomes])


def test_known_shifts_come_back_and_the_rest_is_what_was_added(database):
    store(database, [outcome(i, p) for i in range(30) for p in (A, B)])
    found = align(database, "PBE", B.protocol_id)
    assert (found.a, found.b) == ("external:PBE@MatPES", "external:r2SCAN@MatPES")
    assert (found.frames, found.determined, found.groups, found.mismatched) == (30, 3, 3, 0)
    assert {e: s.value for e, s in found.shifts.items()} == pytest.approx(SHIFT)
    assert found.support == {"Cl": 10, "F": 10, "Li": 30}
    assert found.rmse.value == pytest.approx(0, abs=1e-10)
    # the stress of B is larger by 0.01 eV/Å³ = 1.60218 GPa on the diagonal: three of six components, and −p
    assert found.pressure_difference.value == pytest.approx(-1.6021766, rel=1e-6)
    assert found.stress_mae.value == pytest.approx(1.6021766 / 2, rel=1e-6)


def test_shifts_cosines_and_errors_are_those_of_other_code(database):
    store(database, [outcome(i, p, noise=0.1) for i in range(60) for p in (A, B)])
    found = align(database, A.name, B.name)
    pairs = list(find_pairs(database, A.name, B.name))
    elements = [3, 9, 17]
    x = np.array([[np.mean(np.array(p.atomic_numbers) == z) for z in elements] for p in pairs])
    d = np.array([(p.energy_b - p.energy_a) / len(p.atomic_numbers) for p in pairs])
    fit = LinearRegression(fit_intercept=False).fit(x, d)
    assert [found.shifts[e].value for e in ("Li", "F", "Cl")] == pytest.approx(list(fit.coef_))
    assert found.rmse.value == pytest.approx(np.sqrt(np.mean((d - fit.predict(x)) ** 2)))
    assert found.mae.value == pytest.approx(np.mean(np.abs(d - fit.predict(x))))
    a, b = (np.concatenate([getattr(p, f"forces_{side}") for p in pairs]) for side in "ab")
    na, nb = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    large = (na > 0.05) & (nb > 0.05)
    cosines = (a * b).sum(axis=1)[large] / (na * nb)[large]
    assert found.force_cosine_atoms == large.sum()
    assert found.force_cosine.value == pytest.approx(cosines.mean())
    assert found.force_mae.value == pytest.approx(np.abs(a - b).mean())


def pair(group, difference, seed=0):
    rng = np.random.default_rng(seed)
    forces = rng.normal(size=(2, 3))
    return Pair(str(group), [3, 3], 0.0, 2 * difference, forces, forces, np.zeros(6), np.full(6, 0.01 * difference))


def test_intervals_are_those_of_scipys_bootstrap():
    """With one element and one frame a group the shift is a mean, whose percentile interval scipy gives, too."""
    values = np.random.default_rng(5).normal(1.0, 0.3, size=200)
    found = compare([pair(i, v, i) for i, v in enumerate(values)], "a", "b")
    shift = found.shifts["Li"]
    expected = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    low, high = expected.confidence_interval
    assert shift.value == pytest.approx(values.mean())
    assert (shift.low, shift.high) == pytest.approx((low, high), abs=0.006)
    assert found.force_cosine.value == pytest.approx(1.0)


def test_frames_of_one_group_are_not_independent():
    values = np.random.default_rng(5).normal(1.0, 0.3, size=20)
    alone = compare([pair(i, v) for i, v in enumerate(values)], "a", "b").shifts["Li"]
    copied = compare([pair(i, v) for i, v in enumerate(values) for _ in range(10)], "a", "b").shifts["Li"]
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    single = compare([pair("g", v) for v in values], "a", "b").shifts["Li"]
    assert (single.low, single.high) == (None, None)


def test_compositions_that_do_not_tell_elements_apart():
    pairs = [Pair(str(i), [3, 17], 0.0, 1.0, *[np.ones((2, 3))] * 2, *[np.zeros(6)] * 2) for i in range(5)]
    found = compare(pairs, "a", "b")
    assert found.determined == 1
    assert found.rmse.value == pytest.approx(0)
    assert found.shifts["Li"].value == pytest.approx(0.5)  # the shortest of all solutions of Li + Cl = 1


def test_copies_of_a_configuration_are_found_whatever_their_identity_and_order(database):
    rng = np.random.default_rng(0)
    orders = {i: rng.permutation(2 if i % 3 == 2 else 8) for i in range(12)}
    store(database, [outcome(i, A) for i in range(12)])
    store(database, [outcome(i, B, frame=f"other-{i}", order=orders[i]) for i in range(12)])
    found = align(database, A.name, B.name)
    assert found.frames == 12
    assert {e: s.value for e, s in found.shifts.items()} == pytest.approx(SHIFT)
    forces = np.concatenate([p.forces_b - 1.1 * p.forces_a for p in find_pairs(database, A.name, B.name)])
    np.testing.assert_allclose(forces, np.broadcast_to([0.1, 0, 0], forces.shape), atol=1e-12)


def test_frames_of_one_identity_and_two_geometries_are_counted(database):
    store(database, [outcome(i, p) for i in range(3) for p in (A, B)])
    moved = outcome(3, B, cell=(np.eye(3) * 4.5).tolist())
    store(database, [outcome(3, A), moved])
    found = align(database, A.name, B.name)
    assert (found.frames, found.mismatched) == (3, 1)


def test_what_is_not_there_is_one_sentence(database):
    store(database, [outcome(0, A), outcome(1, B)])
    with pytest.raises(InputError, match="No frame has a label of both external:PBE@MatPES and external:r2SCAN"):
        align(database, A.name, B.name)
    with pytest.raises(InputError, match=r"no protocol like 'SCAN0'; labels have the protocols: external:PBE@MatPES"):
        protocol_named(database, "SCAN0")
    with pytest.raises(InputError, match="several protocols like 'MatPES'"):
        protocol_named(database, "MatPES")
    with pytest.raises(InputError, match="are one protocol"):
        align(database, A.name, "pbe")


def test_the_picture(tmp_path):
    found = compare([pair(i, v, i) for i, v in enumerate(np.linspace(0, 1, 30))], "a", "b")
    for suffix, head in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        draw(found, tmp_path / f"x{suffix}")
        assert (tmp_path / f"x{suffix}").read_bytes().startswith(head)
    first = (tmp_path / "x.png").read_bytes()
    draw(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == first
    with pytest.raises(InputError, match=r"expected .png, .pdf or .svg"):
        draw(found, tmp_path / "x.doc")


class TestHead:
    def test_a_release_of_two_levels_carries_the_protocol_as_a_head(self, database, tmp_path, no_pictures):
        store(database, [outcome(i, p) for i in range(6) for p in (A, B)])
        cut = {"train_fraction": 0.6, "val_fraction": 0.2, "test_fraction": 0.2, "max_cohesive_energy_ev": 1e9}
        mixed = ReleaseParameters(name="x", allow_mixed_protocols=True, head=True, exports=["extxyz", "aselmdb"], **cut)
        document = create_release(database, mixed, tmp_path)
        import ase.io
        import pyarrow.parquet as pq

        folder = tmp_path / document.path
        rows = [r for f in sorted((folder / "data").glob("*.parquet")) for r in pq.read_table(f).to_pylist()]
        assert {r["head"] for r in rows} == {A.name, B.name}
        assert all(r["head"] == r["protocol"] for r in rows)
        atoms = ase.io.read(folder / "exports" / "extxyz" / "train.extxyz", ":")
        assert {a.info["head"] for a in atoms} <= {A.name, B.name}
        with pytest.raises(InputError, match="protocols"):
            create_release(database, mixed.model_copy(update={"allow_mixed_protocols": False}), tmp_path)
        plain = create_release(database, mixed.model_copy(update={"head": False, "name": "y"}), tmp_path)
        heads = pq.read_table(tmp_path / plain.path / "data" / "train.parquet")["head"].to_pylist()
        assert set(heads) == {None}
        assert plain.content_hash != document.content_hash
        assert verify(folder)["content_hash"] == document.content_hash

    def test_the_key_of_a_release_without_heads_is_what_it_was(self):
        assert "head" not in ReleaseParameters(name="x").model_dump(mode="json")
        assert ReleaseParameters(name="x", head=True).model_dump(mode="json")["head"] is True
