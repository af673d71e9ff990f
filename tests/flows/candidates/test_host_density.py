"""Broken density files refuse their own host, by name, and are read again once they were mended."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.candidates import jobs_lithiate
from aqvolt_flows.candidates.density import promolecular_density
from aqvolt_flows.candidates.host_density import density_fingerprint, find_density
from aqvolt_flows.candidates.hosts import host_document
from aqvolt_flows.dynamics.relax import Relaxed
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.generation import LithiationParameters
from aqvolt_flows.schemas.parameters import HostParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stages import plan_stage

P = LithiationParameters(densities=["files"], aeccar_folder="aeccars")


def trifluoride(a: float) -> Structure:
    """FeF3 of the VF3 type, a little larger or smaller, so that each is a host of its own."""
    lattice = Lattice.hexagonal(a, 13.331)
    made = Structure.from_spacegroup("R-3c", lattice, ["Fe", "F"], [[0, 0, 0], [0.412, 0, 0.25]])
    return made.get_primitive_structure()


def write_density(folder, structure, spacing=0.4, names=("AECCAR0", "AECCAR2")) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    density = promolecular_density(structure, spacing)
    density.data["total"] /= 2
    for name in names:
        density.write_file(str(folder / name))


def spin(path) -> None:
    """Write the grid a second time, as a spin density follows the total one."""
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if not line.strip()) + 1
    path.write_text("\n".join([*lines, *lines[start:]]) + "\n")


def other_grid(path) -> None:
    write_density(path.parent, trifluoride(5.2), 0.5, (path.name,))


#: How a file is broken → what the refusal says besides its path.
BROKEN = {
    "grid": (other_grid, "have grids of"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cannot be read as a charge density"),
    "spin": (spin, "has a spin density and"),
    "missing": (lambda path: path.unlink(), "There is no AECCAR2 or AECCAR2.gz"),
    "garbage": (lambda path: path.write_text("<html>not found</html>\n" * 9), "cannot be read as a charge density"),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 40), "cannot be read as a charge density"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a charge density"),
    "nan": (lambda path: path.write_text(path.read_text().replace(" 0.1", " nan", 1)), ""),
    "huge": (lambda path: _dimensions(path, "99999 99999 99999"), "cannot be read as a charge density"),
    "other": (lambda path: _other(path), "is of another"),
}


def _dimensions(path, text) -> None:
    lines = path.read_text().splitlines()
    lines[next(i for i, line in enumerate(lines) if not line.strip()) + 1] = text
    path.write_text("\n".join(lines))


def _other(path) -> None:
    rutile = [[0, 0, 0], [0.31, 0.31, 0]]
    made = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.7, 3.3), ["Fe", "F"], rutile)
    made.remove_sites([0])  # FeF4, and for the other formula FeF3 of another type
    made = Structure.from_spacegroup("Pm-3m", Lattice.cubic(5.5), ["Fe", "F"], [[0, 0, 0], [0.25, 0, 0.5]])
    made = Structure(made.lattice, ["Fe", "F", "F", "F"], [[0, 0, 0], [0.1, 0.5, 0.5], [0.5, 0.1, 0.5], [0.5] * 3])
    write_density(path.parent, made)


def document(structure: Structure, name: str) -> dict:
    origin = {"e_above_hull_ev_per_atom": 0.0}
    return host_document(structure, HostParameters(), name, "user", ["made up"], origin).model_dump(mode="json")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(kind, settings, project):
    host = trifluoride(5.2)
    folder = project / "aeccars" / "host"
    write_density(folder, host)
    assert not isinstance(find_density(document(host, "host"), host, P, settings), Failure)
    whole = density_fingerprint(document(host, "host"), P, settings)
    spoil, said = BROKEN[kind]
    spoil(folder / "AECCAR2")
    found = find_density(document(host, "host"), host, P, settings)
    assert density_fingerprint(document(host, "host"), P, settings) != whole
    if kind == "nan" and not isinstance(found, Failure):
        pytest.skip("the text has no 0.1 to replace")
    assert isinstance(found, Failure)
    assert found.reason == ("other_structure" if kind == "other" else "bad_density")
    assert "aeccars/host" in found.message
    assert said in found.message


def test_every_truncation_of_a_pair_is_a_refusal_or_the_whole_density(settings, project):
    host = trifluoride(5.2)
    folder = project / "aeccars" / "host"
    write_density(folder, host, 0.6)
    text = (folder / "AECCAR2").read_bytes()
    whole = find_density(document(host, "host"), host, P, settings)[0].data["total"]
    rng = np.random.default_rng(0)
    for length in [*rng.integers(0, len(text), 25), len(text) - 1]:
        (folder / "AECCAR2").write_bytes(text[: int(length)])
        found = find_density(document(host, "host"), host, P, settings)
        if not isinstance(found, Failure):
            np.testing.assert_allclose(found[0].data["total"], whole, rtol=1e-3)
    packed = gzip.compress(text)
    (folder / "AECCAR2").unlink()
    for length in rng.integers(0, len(packed), 8):
        (folder / "AECCAR2.gz").write_bytes(packed[: int(length)])
        assert isinstance(find_density(document(host, "host"), host, P, settings), Failure)
    damaged = bytearray(packed)
    damaged[len(damaged) // 2] ^= 255
    (folder / "AECCAR2.gz").write_bytes(bytes(damaged))
    assert isinstance(find_density(document(host, "host"), host, P, settings), Failure)


def campaign() -> Campaign:
    lithiation = {"densities": ["files"], "aeccar_folder": "aeccars", "minima": {"n_rattles": 0, "max_checks": 0}}
    return Campaign(name="mini", lithiation=lithiation)


def work(database, root) -> list[dict]:
    outputs = []
    for item in plan_stage("lithiate", campaign(), database, frozenset()).items:
        job = item.make()
        stored = json.loads(json.dumps(job.as_dict(), default=str))
        assert stored["function_args"][0]
        found = run_locally(job, store=JobStore(MemoryStore()), ensure_success=True, root_dir=root)
        outputs.append(found[job.uuid][1].output)
    return outputs


def test_a_batch_with_broken_densities_ends_with_a_document_for_every_host(database, project, monkeypatch):
    monkeypatch.setattr(jobs_lithiate, "load_potential", lambda *_: None)
    still = lambda structures: [Relaxed(s, -5.0 * len(s), 0.0, 0.0) for s in structures]  # noqa: E731
    monkeypatch.setattr(jobs_lithiate, "torchsim_relaxer", lambda *_: still)
    kinds = ["grid", "truncated", "spin", "missing", "garbage", "other"]
    hosts = {kind: trifluoride(5.15 + 0.05 * i) for i, kind in enumerate([*kinds, "whole"])}
    database.upsert("candidates", [
        host_document(s, HostParameters(), n, "user", ["made up"], {"e_above_hull_ev_per_atom": 0.0})
        for n, s in hosts.items()
    ])  # fmt: skip
    for name, structure in hosts.items():
        write_density(project / "aeccars" / name, structure)
    for kind in kinds:
        BROKEN[kind][0](project / "aeccars" / kind / "AECCAR2")
    (output,) = work(database, project)
    assert output == {
        "new": 7,
        "accepted": 1,
        "rejected": {"bad_density": 5, "other_structure": 1},
        "already_done": 0,
    }
    refused = {d["name"]: d["rejection"] for d in database["candidates"].find({"status": "rejected"})}
    assert set(refused) == {f"Li + {kind}" for kind in kinds}
    assert all(f"aeccars/{name.removeprefix('Li + ')}" in why["message"] for name, why in refused.items())
    assert plan_stage("lithiate", campaign(), database, frozenset()).items == [], "nothing has changed"

    for kind in kinds[:3]:  # mended: three of them
        shutil.rmtree(project / "aeccars" / kind)
        write_density(project / "aeccars" / kind, hosts[kind])
    again = plan_stage("lithiate", campaign(), database, frozenset())
    assert (again.facts["to_run"], again.facts["with_a_repaired_density"]) == (3, 3)
    assert again.items[0].key != plan_key_of_first(again)
    (output,) = work(database, project)
    assert (output["accepted"] + output["rejected"].get("duplicate", 0), output["new"]) == (3, 0)
    assert database["candidates"].count_documents({"source": "stuffed"}) == 7, "the refusals were replaced"
    assert database["candidates"].count_documents({"rejection.reason": "bad_density"}) == 2
    assert plan_stage("lithiate", campaign(), database, frozenset()).items == []


def plan_key_of_first(plan) -> str:
    """The key that the same units had at first; a finished workflow of that key would not be submitted again."""
    from aqvolt_flows.identity import content_key

    return content_key("lithiate-batch/1", units=sorted(plan.items[0].units))


def test_the_analyzer_may_fail_on_a_density_without_ending_the_batch(database, project, monkeypatch):
    def fails(*_):
        raise IndexError("index 0 is out of bounds")

    monkeypatch.setattr(jobs_lithiate, "find_sites", fails)
    host = trifluoride(5.2)
    write_density(project / "aeccars" / "host", host)
    database.upsert("candidates", [
        host_document(host, HostParameters(), "host", "user", ["made up"], {"e_above_hull_ev_per_atom": 0.0})
    ])  # fmt: skip
    (output,) = work(database, project)
    assert output["rejected"] == {"bad_density": 1}
    (made,) = database["candidates"].find({"source": "stuffed"})
    assert "IndexError: index 0 is out of bounds" in made["rejection"]["message"]


def test_a_source_that_does_not_answer_for_one_host_leaves_the_others_their_documents(settings, monkeypatch):
    def prepared(host, key, *_):
        if host["name"] == "gone":
            raise ResourceError("The public bucket did not give aeccar0s/mp-1.")
        return original(host, key, *_)

    original = jobs_lithiate._prepared
    monkeypatch.setattr(jobs_lithiate, "_prepared", prepared)
    hosts = [(document(trifluoride(5.2), name), name) for name in ("gone", "first", "second")]
    still = lambda structures: [Relaxed(s, -5.0 * len(s), 0.0, 0.0) for s in structures]  # noqa: E731
    off = {"n_rattles": 0, "max_checks": 0}
    p = LithiationParameters(densities=["promolecular"], promolecular_spacing_a=0.3, max_li=1, minima=off)
    found = []
    made = jobs_lithiate.stuffed_documents(hosts, p, ("Fe",), settings, still)
    with pytest.raises(ResourceError, match="did not give"):
        found.extend(document for of_one in made for document in of_one)
    assert [d.key for d in found] == ["first", "second"]
    stuck = Failure(reason="unconverged", message="largest force 1 eV/Å")
    lost = lambda structures: [Relaxed(s, 0.0, 1, 1, stuck) for s in structures]  # noqa: E731
    ((refused,),) = jobs_lithiate.stuffed_documents(hosts[1:2], p, ("Fe",), settings, lost)
    assert refused.rejection.reason == "li_metal_unrelaxed"
    assert "7net-mf-0/R2SCAN: largest force 1" in refused.rejection.message
    unlimited = p.model_copy(update={"min_voltage_v": None})
    ((refused,),) = jobs_lithiate.stuffed_documents(hosts[1:2], unlimited, ("Fe",), settings, lost)
    assert refused.rejection.reason == "host_unrelaxed"


def test_a_plan_says_how_many_hosts_are_reducible(database, project):
    rutile = [[0, 0, 0], [0.31, 0.31, 0]]
    mnf2 = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.8734, 3.3099), ["Mn", "F"], rutile)
    cluster = Structure(Lattice.cubic(9), ["Nb"] * 6 + ["I"] * 11, np.random.default_rng(0).random((17, 3)))
    for n, (name, s) in enumerate({"FeF3": trifluoride(5.2), "MnF2": mnf2, "Nb6I11": cluster}.items()):
        made = host_document(s, HostParameters(), name, "user", ["made up"], {"e_above_hull_ev_per_atom": 0.0})
        database.upsert("candidates", [made.model_copy(update={"status": "accepted", "rejection": None})])
        assert plan_stage("lithiate", campaign(), database, frozenset()).facts["hosts"] == n + 1
    facts = plan_stage("lithiate", campaign(), database, frozenset()).facts
    assert (facts["reducible"], facts["not_reducible"], facts["decided_by_bond_valences"]) == (1, 1, 1)
