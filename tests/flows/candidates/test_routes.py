"""A miniature pool through all three routes on the embedded database: given, stuffed, substituted."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.candidates import jobs_lithiate, jobs_substitute
from aqvolt_flows.candidates.density import promolecular_density
from aqvolt_flows.candidates.generated import generated_document, write_generated
from aqvolt_flows.candidates.hosts import host_document
from aqvolt_flows.candidates.select import candidate_document
from aqvolt_flows.dynamics.relax import Relaxed
from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.plan import plan_explore
from aqvolt_flows.schemas.parameters import AIMDParameters, CandidateParameters
from aqvolt_flows.stages import plan_stage

WYCKOFF = "Wyckoff, Crystal Structures 1 (1963)"


def rock_salt(anion: str, a: float) -> Structure:
    crystal = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return crystal.get_primitive_structure()


def trifluoride(metal: str, a: float, c: float, x: float) -> Structure:
    """The VF3 type, R-3c; two formula units in the primitive cell."""
    lattice = Lattice.hexagonal(a, c)
    return Structure.from_spacegroup("R-3c", lattice, [metal, "F"], [[0, 0, 0], [x, 0, 0.25]]).get_primitive_structure()


def rutile(metal: str, a: float, c: float, u: float) -> Structure:
    return Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(a, c), [metal, "F"], [[0, 0, 0], [u, u, 0]])


#: Lattice parameters as published: Leblanc et al., J. Solid State Chem. 47, 53 (1983); Wyckoff (1963).
HOSTS = {
    "FeF3": trifluoride("Fe", 5.196, 13.331, 0.412),
    "VF3": trifluoride("V", 5.170, 13.402, 0.395),
    "MnF2": rutile("Mn", 4.8734, 3.3099, 0.310),
    "NiF2": rutile("Ni", 4.6506, 3.0836, 0.302),
}
GIVEN = {("user", "LiF"): rock_salt("F", 4.0173), ("matpes", "LiBr"): rock_salt("Br", 5.5013)}


def elements(*symbols: str) -> list[Structure]:
    return [Structure(Lattice.cubic(3.4), [s], [[0, 0, 0]]) for s in symbols]


def write_entries(path, structures):
    found = [
        ComputedStructureEntry(s, 0.0, entry_id=f"{s.composition.reduced_formula}-{i}")
        for i, s in enumerate(structures)
    ]
    path.write_text(json.dumps([e.as_dict() for e in found]))


def pool(database) -> None:
    rules = CandidateParameters()
    documents = [host_document(s, rules.hosts, n, "user", [WYCKOFF], {"e_above_hull_ev_per_atom": 0.0}) for n, s in HOSTS.items()]  # fmt: skip  # noqa: E501
    documents += [candidate_document(s, rules, name, source, [WYCKOFF]) for (source, name), s in GIVEN.items()]
    assert all(d.status == "accepted" for d in documents)
    database.upsert("candidates", documents)


def campaign(**changes) -> Campaign:
    lithiation = {"densities": ["promolecular"], "promolecular_spacing_a": 0.25} | changes.pop("lithiation", {})
    substitution = {"parents": ["user", "stuffed"], "reference_entries": "entries.json"}
    return Campaign(name="mini", lithiation=lithiation, substitution=substitution | changes.pop("substitution", {}))


def run(stage: str, chosen: Campaign, database, root) -> list[dict]:
    plan = plan_stage(stage, chosen, database, frozenset())
    assert plan.missing == []
    outputs = []
    for item in plan.items:
        job = item.make()
        found = run_locally(job, store=JobStore(MemoryStore()), ensure_success=True, root_dir=root)
        outputs.append(found[job.uuid][1].output)
    return outputs


def counts(database) -> Counter:
    return Counter(
        (d["source"], d["role"], (d["rejection"] or {}).get("reason", "accepted"))
        for d in database["candidates"].find()
    )


@pytest.fixture
def made_up_relaxer(monkeypatch):
    """−5 eV an atom for all, −4.9 with I; Br gathers in a line, as no crystal has it. Nothing else moves."""

    def relax(structures):
        out = []
        for s in structures:
            end = s.copy()
            bromines = [i for i, site in enumerate(s) if site.specie.symbol == "Br"]
            for n, i in enumerate(bromines):
                end.replace(i, "Br", [0.1 + 0.8 * n / len(bromines), 0.05, 0.05])
            per_atom = -4.9 if "I" in {x.specie.symbol for x in s} and len(s) > 1 else -5.0
            out.append(Relaxed(end, per_atom * len(s), 0.0, 0.0))
        return out

    for module in (jobs_lithiate, jobs_substitute):
        monkeypatch.setattr(module, "load_potential", lambda *_: None)
        monkeypatch.setattr(module, "torchsim_relaxer", lambda *_: relax)


def test_three_routes_with_counts_by_source_and_reason(database, project, made_up_relaxer):
    pool(database)
    write_entries(project / "entries.json", elements("Li", "F", "Cl", "Br", "I"))
    chosen = campaign()
    assert run("lithiate", chosen, database, project) == [
        {"new": 4, "accepted": 2, "rejected": {"not_reducible": 2}, "already_done": 0}
    ]
    # LiF, Li2Fe2F6 and Li2V2F6, each with Cl, Br, I. By the relaxer above: every Br collapses; Fe and V have no entry;
    # LiI lies 0.1 eV above elements that all have -5; LiCl lies on that hull.
    run("substitute", chosen, database, project)
    expected = {
        ("user", "host", "accepted"): 4,
        ("user", "candidate", "accepted"): 1,
        ("matpes", "candidate", "accepted"): 1,
        ("stuffed", "candidate", "accepted"): 2,
        ("stuffed", "candidate", "not_reducible"): 2,
        ("substituted", "candidate", "accepted"): 1,
        ("substituted", "candidate", "framework_changed"): 3,
        ("substituted", "candidate", "no_reference"): 4,
        ("substituted", "candidate", "above_hull"): 1,
    }
    assert counts(database) == expected
    for stage in ("lithiate", "substitute"):  # planned again there is nothing to do
        assert plan_stage(stage, chosen, database, frozenset()).items == []
    formulas = {r["formula"] for r in database["candidates"].find({"status": "accepted", "role": {"$ne": "host"}})}
    assert formulas == {"LiF", "LiBr", "LiCl", "LiFeF3", "LiVF3"}
    explored = plan_explore(chosen, database)  # hosts are not explored
    assert explored.facts["runs"] == 5 * len(chosen.exploration.temperatures_k)


def test_substitutions_of_matpes_structures_for_aimd_only(database, project, made_up_relaxer):
    """LiBr of MatPES becomes LiCl, which the relaxer keeps; it is planned for AIMD and never explored."""
    pool(database)
    write_entries(project / "entries.json", elements("Li", "F", "Cl", "Br", "I"))
    changes = {"parents": ["stuffed"], "aimd_parents": ["matpes"], "from_halogens": ["Br"], "to_halogens": ["Cl"]}
    chosen = campaign(substitution=changes)
    chosen = chosen.model_copy(
        update={"aimd": AIMDParameters(systems={"substituted_from": ["matpes"]}, temperatures_k=[300.0])}
    )
    run("substitute", chosen, database, project)
    (made,) = database["candidates"].find({"source": "substituted"})
    assert (made["status"], made["formula"], made["parent_source"]) == ("accepted", "LiCl", "matpes")
    assert plan_stage("substitute", chosen, database, frozenset()).items == []
    (item,) = plan_stage("aimd", chosen, database, frozenset()).items
    assert item.name == "AIMD LiCl 300 K"
    temperatures = len(chosen.exploration.temperatures_k)
    assert plan_explore(chosen, database).facts["runs"] == 2 * temperatures, "LiF and LiBr"
    both = campaign(substitution=changes | {"parents": ["matpes"]})
    assert plan_explore(both, database).facts["runs"] == 3 * temperatures
    assert plan_stage("substitute", both, database, frozenset()).facts["finished"] == 1, "made once for both"


def test_an_explored_structure_is_no_duplicate_of_one_for_aimd_only(database, project):
    """The same LiCl from both: the one to explore is kept whichever comes first; one for AIMD is a duplicate of it."""
    salt = GIVEN["user", "LiF"].copy()
    salt.replace_species({"F": "Cl"})
    parents = [{"candidate_id": f"of-{source}", "source": source} for source in ("matpes", "stuffed")]
    made = [generated_document(f"k-{p['source']}", "substituted", p, salt, None, {}, {}, "LiCl") for p in parents]
    aimd, explored = made
    rules = CandidateParameters().duplicates
    assert write_generated(database, [aimd], rules, ["matpes"])["accepted"] == 1
    assert write_generated(database, [explored], rules, ["matpes"])["accepted"] == 1
    database["candidates"].delete_many({})
    made = [m.model_copy(update={"status": "accepted", "rejection": None}) for m in made]
    counts_ = write_generated(database, made, rules, ["matpes"])
    assert (counts_["accepted"], counts_["rejected"]) == (1, {"duplicate": 1})
    (kept,) = database["candidates"].find({"status": "accepted"})
    assert kept["parent_source"] == "stuffed"


def test_documents_carry_every_number_and_jobs_run_twice_write_once(database, project, made_up_relaxer):
    pool(database)
    write_entries(project / "entries.json", elements("Li", "F", "Cl", "Br", "I"))
    chosen = campaign()
    job = plan_stage("lithiate", chosen, database, frozenset()).items[0].make()
    maker, hosts = _call(job)
    before, again = (jobs_lithiate.LithiateMaker.make.original(maker, hosts) for _ in range(2))
    assert (before["new"], again["new"], again["already_done"]) == (4, 0, 4)
    stuffed = database["candidates"].find_one({"formula": "LiFeF3"})
    numbers = stuffed["decisions"]
    assert numbers["oxidation_states"] == {"Fe": 3.0, "F": -1.0}
    assert numbers["electrons_per_cell"] == {"Fe": 2.0}  # two Fe3+ go to Fe2+
    assert (numbers["n_li"], numbers["max_li"], numbers["stopped"]) == (2, 2, "paid")
    assert [len(s["configurations"]) for s in numbers["steps"]] == [1, 1]  # the two voids are equivalent
    assert {"site_charge_e_per_a3", "energy_ev", "rms_displacement_a", "host_energy_ev"} <= set(numbers)
    assert stuffed["provenance"]["density"] == "promolecular"
    assert database["candidates"].find_one({"candidate_id": stuffed["parent_id"]})["name"] == "FeF3"
    run("substitute", chosen, database, project)
    made = database["candidates"].find_one({"source": "substituted", "formula": "LiCl"})["decisions"]
    assert (made["old"], made["new"], made["framework_kept"]) == ("F", "Cl", True)
    assert made["linear_scale"] == pytest.approx((0.76 + 1.81) / (0.76 + 1.33), abs=1e-6)  # Shannon 1976
    assert made["e_above_hull_ev_per_atom"] == pytest.approx(0)
    assert made["hull_reference"].startswith("potential:7net-mf-0/R2SCAN@")


def test_aeccar_files_come_first_and_hosts_without_a_density_are_named(database, project, made_up_relaxer):
    pool(database)
    folder = project / "aeccars" / "FeF3"
    folder.mkdir(parents=True)
    density = promolecular_density(HOSTS["FeF3"], 0.25)
    density.data["total"] /= 2  # the sum of both files is the density
    for name in ("AECCAR0", "AECCAR2"):
        density.write_file(str(folder / name))
    wrong = project / "aeccars" / "VF3"
    wrong.mkdir()
    for name in ("AECCAR0", "AECCAR2"):
        promolecular_density(HOSTS["NiF2"], 0.5).write_file(str(wrong / name))
    chosen = campaign(lithiation={"densities": ["files"], "aeccar_folder": "aeccars"})
    run("lithiate", chosen, database, project)
    assert counts(database)["stuffed", "candidate", "other_structure"] == 1
    made = database["candidates"].find_one({"source": "stuffed", "status": "accepted"})
    assert (made["formula"], made["provenance"]["density"]) == ("LiFeF3", "files")
    for name in ("AECCAR0", "AECCAR2"):
        wrong.joinpath(name).unlink()
    run("lithiate", chosen, database, project)
    assert counts(database)["stuffed", "candidate", "no_charge_density"] == 1


def test_a_job_holds_whole_parents_and_what_is_queued_stays_chosen(database, project, made_up_relaxer):
    pool(database)
    write_entries(project / "entries.json", elements("Li", "F", "Cl", "Br", "I"))
    options = {"parents": ["user", "matpes"], "from_halogens": ["F", "Br"], "parents_per_job": 1}
    plan = plan_stage("substitute", campaign(substitution=options), database, frozenset())
    assert sorted(len(item.units) for item in plan.items) == [2, 3]  # LiF to Cl, Br, I; LiBr to Cl, I
    one = campaign(substitution=options | {"per_parent": 1, "parents": ["user"]})
    [item] = plan_stage("substitute", one, database, frozenset()).items
    claimed = frozenset(item.units)
    many = [
        candidate_document(rock_salt("Cl", 5 + 0.1 * i), CandidateParameters(), f"{i}", "user", []) for i in range(9)
    ]
    database.upsert("candidates", many)  # now the pool has least of another halogen
    again = plan_stage("substitute", one, database, claimed)
    assert again.items == []
    assert set(again.queued) == claimed


def test_a_hull_whose_phases_did_not_relax_accepts_nothing(database, project, monkeypatch):
    from aqvolt_flows.schemas.provenance import Failure

    def relax(structures):
        stuck = Failure(reason="unconverged", message="")
        salts = [len(s) > 1 and len(s.composition.elements) == 2 and s.volume > 60 for s in structures]
        return [
            Relaxed(s, -5.0 * len(s), 0, 0, stuck if salt else None) for s, salt in zip(structures, salts, strict=True)
        ]

    monkeypatch.setattr(jobs_substitute, "load_potential", lambda *_: None)
    monkeypatch.setattr(jobs_substitute, "torchsim_relaxer", lambda *_: relax)
    database.upsert("candidates", [candidate_document(GIVEN["user", "LiF"], CandidateParameters(), "LiF", "user", [])])
    big = Structure(Lattice.cubic(4.5), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    write_entries(project / "entries.json", [*elements("Li", "F", "Cl", "Br", "I"), big])
    run("substitute", campaign(substitution={"parents": ["user"], "to_halogens": ["Cl", "Br"]}), database, project)
    found = {d["formula"]: d for d in database["candidates"].find({"source": "substituted"})}
    assert found["LiBr"]["status"] == "accepted"
    assert found["LiCl"]["rejection"]["reason"] == "hull_incomplete"
    assert "LiCl-5 (LiCl), which did not relax" in found["LiCl"]["rejection"]["message"]


def test_ordered_mixtures_are_made_where_asked_for(database, project, monkeypatch):
    """Half of the F of a fourfold cell; the energy made up here depends on which sites are taken."""

    def relax(structures):
        out = []
        for s in structures:
            cl = [i for i, site in enumerate(s) if site.specie.symbol == "Cl"]
            out.append(Relaxed(s, -5.0 * len(s) - 0.001 * sum(i * j for i in cl for j in cl), 0.0, 0.0))
        return out

    monkeypatch.setattr(jobs_substitute, "load_potential", lambda *_: None)
    monkeypatch.setattr(jobs_substitute, "torchsim_relaxer", lambda *_: relax)
    parent = rock_salt("F", 4.0173) * (2, 2, 1)
    database.upsert("candidates", [candidate_document(parent, CandidateParameters(), "LiF", "user", [])])
    write_entries(project / "entries.json", elements("Li", "F", "Cl"))
    options = {"parents": ["user"], "to_halogens": ["Cl"], "fractions": [1.0, 0.5, 0.3]}
    run("substitute", campaign(substitution=options), database, project)
    found = {d["decisions"].get("fraction", 1.0): d for d in database["candidates"].find({"source": "substituted"})}
    assert [found[f]["formula"] for f in (1.0, 0.5)] == ["LiCl", "Li2ClF"]
    assert found[0.3]["rejection"]["reason"] == "no_ordering"
    numbers = found[0.5]["decisions"]
    assert found[0.5]["name"] == "LiF, 0.5 F → Cl"
    energies = [o["energy_ev"] for o in numbers["orderings"]]
    assert numbers["distinct_orderings"] == len(energies) >= 2
    assert numbers["energy_ev"] == min(energies) < max(energies)
    assert "orderings" not in found[1.0]["decisions"]
    assert plan_stage("substitute", campaign(substitution=options), database, frozenset()).items == []
    # the keys of whole substitutions are those of campaigns that know no fractions
    whole = campaign(substitution={"parents": ["user"], "to_halogens": ["Cl"]})
    assert plan_stage("substitute", whole, database, frozenset()).facts["finished"] == 1


def test_an_r2scan_hull_takes_r2scan_energies_only(database, project, made_up_relaxer):
    pool(database)
    phases = [
        ComputedStructureEntry(s, -5.0 * len(s), parameters={"run_type": "R2SCAN"})
        for s in elements("Li", "Cl", "Br", "I")
    ]
    label = ComputedStructureEntry(rock_salt("Cl", 5.13), -9.96, parameters={"run_type": "R2SCAN"})
    (project / "entries.json").write_text(json.dumps([e.as_dict() for e in phases]))
    (project / "energies.json").write_text(json.dumps([label.as_dict()]))
    substitution = {"parents": ["user"], "reference": "r2scan", "energies": "energies.json", "to_halogens": ["Cl", "I"]}
    run("substitute", campaign(substitution=substitution), database, project)
    found = {d["formula"]: d for d in database["candidates"].find({"source": "substituted"})}
    assert found["LiI"]["rejection"]["reason"] == "no_r2scan_energy"
    # −9.96 eV against −10 eV of the elements, two atoms
    assert found["LiCl"]["decisions"]["e_above_hull_ev_per_atom"] == pytest.approx(0.02)
    assert found["LiCl"]["decisions"]["hull_reference"] == "r2SCAN"
    (project / "entries.json").write_text(
        json.dumps([ComputedStructureEntry(s, -5.0, parameters={"run_type": "GGA"}).as_dict() for s in elements("Li")])
    )
    plan = plan_stage("substitute", campaign(substitution=substitution), database, frozenset())
    with pytest.raises(InputError, match="run type GGA"):
        jobs_substitute.SubstituteMaker.make.original(*_call(plan.items[0].make()))


def _call(job):
    return job.maker, job.function_args[0]


def test_plans_say_what_is_missing(database, project):
    assert "no accepted host" in plan_stage("lithiate", campaign(), database, frozenset()).missing[0]
    missing = plan_stage("substitute", campaign(), database, frozenset()).missing
    assert len(missing) == 2
    assert "reference_entries" in missing[1]


@pytest.mark.slow
def test_lif_becomes_licl_with_a_real_potential(database, project):
    """SevenNet, r2SCAN channel: measured LiCl (a = 5.13 Å, Wyckoff) is stable; its framework is rock salt's."""
    database.upsert("candidates", [candidate_document(GIVEN["user", "LiF"], CandidateParameters(), "LiF", "user", [WYCKOFF])])  # fmt: skip  # noqa: E501
    # bcc Li (Wyckoff, a = 3.5093 Å) and solid Cl2 (Cmce, a = 6.24, b = 4.48, c = 8.26 Å; Wyckoff)
    li = Structure.from_spacegroup("Im-3m", Lattice.cubic(3.5093), ["Li"], [[0, 0, 0]]).get_primitive_structure()
    cl = Structure.from_spacegroup("Cmce", Lattice.orthorhombic(6.24, 4.48, 8.26), ["Cl"], [[0, 0.13, 0.1]])
    write_entries(project / "entries.json", [li, cl.get_primitive_structure()])
    chosen = campaign(
        substitution={"to_halogens": ["Cl"], "parents": ["user"], "relaxation": {"force_tolerance_ev_per_a": 0.1}}
    )
    run("substitute", chosen, database, project)
    made = database["candidates"].find_one({"source": "substituted"})
    assert made["status"] == "accepted", made["rejection"]
    relaxed = Structure.from_dict(made["structure"])
    assert (4 * relaxed.volume) ** (1 / 3) == pytest.approx(5.13 * 1, rel=0.02)
    # measured enthalpy of formation −408.6 kJ/mol (CRC Handbook) is −2.12 eV an atom
    assert made["decisions"]["e_above_hull_ev_per_atom"] == pytest.approx(-2.12, abs=0.25)
    assert np.isfinite(made["decisions"]["energy_ev"])


@pytest.mark.slow
def test_two_hosts_take_up_li_alike_in_two_cells_at_sensible_voltages(database, project):
    """SevenNet, r2SCAN channel: FeF3 has 3.0 V on discharge and 3.4 V at rest (Arai, J. Power Sources 68, 716 (1997)).

    TiCl3 (R-3, layers) is given in its hexagonal cell of 24 atoms, FeF3 in the primitive one and doubled.
    """
    layers = Lattice.hexagonal(6.12, 17.5)
    ticl3 = Structure.from_spacegroup("R-3", layers, ["Ti", "Cl"], [[0, 0, 1 / 3], [0.336, 0.002, 0.0785]])
    given = {"FeF3": HOSTS["FeF3"], "FeF3 doubled": HOSTS["FeF3"] * (2, 1, 1), "TiCl3": ticl3}
    rules, origin = CandidateParameters(), {"e_above_hull_ev_per_atom": 0.0}
    database.upsert(
        "candidates", [host_document(s, rules.hosts, n, "user", [WYCKOFF], origin) for n, s in given.items()]
    )
    run("lithiate", campaign(lithiation={"max_li": 1, "minima": {"n_rattles": 1, "max_checks": 1}}), database, project)
    made = {d["name"]: d for d in database["candidates"].find({"source": "stuffed"})}
    fef3, doubled, titanium = (made[f"Li1 + {n}"] for n in given)
    assert sorted(d["status"] for d in (fef3, doubled)) == ["accepted", "rejected"], "the second one is a duplicate"
    assert {d["rejection"]["reason"] for d in (fef3, doubled) if d["rejection"]} == {"duplicate"}
    assert doubled["decisions"]["voltage_v"] == pytest.approx(fef3["decisions"]["voltage_v"], abs=0.05)
    assert fef3["decisions"]["voltage_v"] == pytest.approx(3.4, abs=0.3)
    assert fef3["decisions"]["host_volume_a3"] == pytest.approx(HOSTS["FeF3"].volume, rel=0.05)
    assert titanium["status"] == "accepted"
    assert titanium["decisions"]["n_atoms_of_host"] == 8
    assert abs(titanium["decisions"]["volume_change"]) < 0.1
    assert all(d["decisions"]["gain_mev_per_atom"] > -5 for d in (fef3, doubled, titanium))
