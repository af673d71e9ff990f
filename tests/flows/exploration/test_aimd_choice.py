"""Which candidates get AIMD: the paper's 175,065 labels, stable under more candidates, wrong queries taught."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.aimd_choice import chosen_runs, suitable_candidates, temperatures_of
from aqvolt_flows.exploration.aimd_inputs import aimd_key
from aqvolt_flows.exploration.plan import plan_aimd, wanted_runs
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.parameters import AIMDParameters, AIMDSystems

STRUCTURE = {"@module": "pymatgen.core.structure", "@class": "Structure"}


def candidate(name: str, source: str = "matpes", elements=("Cl", "Li"), **more) -> CandidateDocument:
    values = {
        "candidate_id": f"candidate-{name}",
        "key": name,
        "name": name,
        "source": source,
        "status": "accepted",
        "formula": "LiCl",
        "chemsys": "-".join(elements),
        "elements": list(elements),
        "n_atoms": 8,
        "structure": STRUCTURE,
    }
    return CandidateDocument.model_validate(values | more)


def pool(n: int, **more) -> list[dict]:
    return [{"candidate_id": f"candidate-{i:05d}", "formula": "LiCl", **more} for i in range(n)]


def test_the_presets_plan_is_the_papers_number_of_labels(database):
    """Section 2.1: 1,549 MatPES halides; here with 900 of their substitutions, 1,412 stuffed and 1,950 of theirs.

    Section 2.2: AIMD of a subset of the first two gave 175,065 labels. All of it at five temperatures would be
    (1,549 + 900) × 5 × 400 = 4.9 million steps, of all candidates 11.6 million.
    """
    made = [candidate(f"m{i}", elements=("F", "Li")) for i in range(1549)]
    made += [candidate(f"o{i}", elements=("F", "Li", "O")) for i in range(5)]
    for source, n in (("matpes", 900), ("stuffed", 1950)):
        further = {"source": "substituted", "parent_source": source, "parent_id": f"candidate-{source}"}
        made += [candidate(f"{source}-{i}", **further) for i in range(n)]
    made += [candidate(f"s{i}", source="stuffed") for i in range(1412)]
    database.upsert("candidates", made)
    campaign = load_campaign("aqvolt26")
    facts = plan_aimd(campaign, database).facts
    assert (facts["accepted"], facts["suitable"]) == (5816, 2449)
    assert (facts["systems"], facts["runs"]) == (438, 438)
    assert facts["labels"] == 438 * 400
    assert abs(facts["labels"] - 175_065) / 175_065 < 0.001
    explored = database.own("candidates").count_documents
    from aqvolt_flows.schemas.candidate import explored as query

    assert explored(query(campaign.substitution.only_aimd)) == 5816 - 900, "those are not explored by ML MD"


def test_by_default_every_accepted_candidate_runs_at_every_temperature(database):
    database.upsert("candidates", [candidate("a"), candidate("b", source="user"), candidate("h", role="host")])
    campaign = load_campaign("aqvolt26").model_copy(update={"aimd": AIMDParameters()})
    facts = plan_aimd(campaign, database).facts
    assert (facts["systems"], facts["runs"], facts["labels"]) == (2, 10, 4000)
    thinned = campaign.labeling.model_copy(update={"aimd_label_stride": 7})
    labels = plan_aimd(campaign.model_copy(update={"labeling": thinned}), database).facts["labels"]
    assert labels == 10 * 58, "steps 1, 8, …, 400 are 58 of 400"


def test_what_a_query_asks_for(database):
    database.upsert(
        "candidates",
        [
            candidate("plain"),
            candidate("oxide", elements=("Cl", "Li", "O")),
            candidate("large", n_atoms=200),
            candidate("mine", source="user"),
            candidate("from-matpes", source="substituted", parent_source="matpes", parent_id="candidate-plain"),
            candidate("from-stuffed", source="substituted", parent_source="stuffed", parent_id="x"),
            candidate("of-before", source="substituted", parent_id="candidate-plain"),
            candidate("lost", source="substituted", parent_id="candidate-gone"),
            candidate("rejected", status="rejected"),
        ],
    )

    def found(**systems):
        chosen = suitable_candidates(database, AIMDSystems(**systems))
        return [d["candidate_id"].removeprefix("candidate-") for d in chosen]

    assert len(found()) == 8
    assert found(sources=["user"]) == ["mine"]
    both = found(sources=["matpes"], substituted_from=["matpes"], exclude_elements=["O"], max_atoms=100)
    assert both == ["from-matpes", "of-before", "plain"]
    assert found(substituted_from=["stuffed"]) == ["from-stuffed"]
    assert found(sources=["substituted"]) == ["from-matpes", "from-stuffed", "lost", "of-before"]
    assert found(require_elements=["O"]) == ["oxide"]
    assert found(query={"n_atoms": {"$gt": 100}}) == ["large"]
    with pytest.raises(InputError, match=r"does not understand aimd\.systems\.query .*\$nonsense\); correct the query"):
        found(query={"n_atoms": {"$nonsense": 1}})


def test_a_choice_that_nothing_fits_is_said(database):
    database.upsert("candidates", [candidate("mine", source="user")])
    plan = plan_aimd(load_campaign("aqvolt26"), database)
    assert not plan.items
    assert "none of 1 accepted candidates fits aimd.systems (sources: ['matpes']" in plan.missing[0]


def test_substitutions_for_aimd_are_not_explored(database):
    from ase.build import bulk

    from aqvolt_flows.structures import to_structure

    structure = to_structure(bulk("LiCl", "rocksalt", a=5.1)).as_dict()
    made = {"source": "substituted", "parent_id": "p", "structure": structure, "n_atoms": 2}
    database.upsert(
        "candidates",
        [
            candidate("for-aimd", parent_source="matpes", **made),
            candidate("for-all", parent_source="stuffed", **made),
            candidate("of-before", **made),
        ],
    )
    campaign = load_campaign("aqvolt26")
    of = lambda c: sorted({r.candidate_id.removeprefix("candidate-") for r in wanted_runs(c, database)})  # noqa: E731
    assert of(campaign) == ["for-all", "of-before"]
    both = campaign.substitution.model_copy(update={"parents": ["stuffed", "matpes"]})
    assert of(campaign.model_copy(update={"substitution": both})) == ["for-aimd", "for-all", "of-before"]


def test_temperatures_are_shared_out_evenly():
    """500 candidates, one of five temperatures each: 100 ± 9 (binomial) of each; none changes when others come."""
    one = AIMDParameters(temperatures_per_system=1)
    counts = Counter(temperatures_of(f"candidate-{i}", one)[0] for i in range(500))
    assert set(counts) == set(one.temperatures_k)
    assert max(abs(n - 100) for n in counts.values()) < 4 * 9
    two = AIMDParameters(temperatures_per_system=2)
    for i in range(20):
        assert temperatures_of(f"candidate-{i}", one)[0] in temperatures_of(f"candidate-{i}", two)
    assert temperatures_of("c", AIMDParameters(temperatures_per_system=9)) == one.temperatures_k


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 40))
def test_runs_that_exist_stay_chosen(limit, n, more):
    p = AIMDParameters(max_systems=limit, temperatures_per_system=1)
    first = chosen_runs(pool(n), p, {}, ())
    assert len(first) == min(limit, n)
    begun = {key for _, _, key in first}
    later = chosen_runs(pool(n + more), p, {}, begun)
    assert begun <= {key for _, _, key in later}
    assert len(later) == min(limit, n + more)
    assert [c["candidate_id"] for c, _, _ in later] == sorted(c["candidate_id"] for c, _, _ in later)
    if limit >= n + more:
        assert chosen_runs(pool(n + more), p, {}, ()) == later


def test_a_campaign_that_ran_at_all_temperatures_keeps_what_it_has():
    """Asked for one temperature each, a candidate that has a run keeps that one, whatever the hash says."""
    every = chosen_runs(pool(30), AIMDParameters(), {}, ())
    begun = {key for c, t, key in every if c["candidate_id"] == "candidate-00017" and t == 1200.0}
    later = chosen_runs(pool(30), AIMDParameters(temperatures_per_system=1, max_systems=1), {}, begun)
    assert [(c["candidate_id"], t) for c, t, _ in later] == [("candidate-00017", 1200.0)]


def test_what_is_chosen_is_no_part_of_a_runs_identity():
    plain = AIMDParameters()
    other = AIMDParameters(
        systems=AIMDSystems(sources=["matpes"]), max_systems=3, temperatures_per_system=1, keep_orbitals=True
    )
    assert aimd_key("c", 300.0, plain) == aimd_key("c", 300.0, other)
    assert aimd_key("c", 300.0, plain) == "f51a8cc1746c8eb7d99090de", "as version 0.1 made it"
