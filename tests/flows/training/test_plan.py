"""Planning a training: its length, mixtures, and what stands in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from labelled_splits import label, write_split
from typer.testing import CliRunner

from aqvolt_flows.campaign import Campaign, load_campaign, parse_campaign
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.training.jobs import TrainStageMaker, train_key
from aqvolt_flows.training.plan import plan_train
from aqvolt_flows.work import Plan

COUNTS = {"total": 322_656, "atoms": round(322_656 * 16.7), "by_split": {"train": 290_390}}
#: So few that the warm-up of 0.01 epochs ends within the 60 steps of ``toy``.
FEW = {"total": 400, "atoms": 6_680, "by_split": {"train": 360}}
MIXTURES = {
    "matpes-mpaloe": ["matpes", "mp-aloe"],
    "matpes-mpaloe-mp": ["matpes", "mp-aloe", "mp"],
    "aqvolt26-matpes-mpaloe": ["aqvolt26", "matpes", "mp-aloe"],
    "aqvolt26-matpes-mpaloe-mp": ["aqvolt26", "matpes", "mp-aloe", "mp"],
}
STAGE = (
    "{{steps: {steps}, max_atoms: 24, max_neighbors: 30, learning_rate: 0.001, bf16: false, energy_coefficient: 1,"
    " force_coefficient: 1, stress_coefficient: 1}}"
)


def released(
    database: Database, name: str, counts: dict[str, Any], protocol: str = "vasp:r2SCAN@1", number: int = 0
) -> ReleaseDocument:
    document = ReleaseDocument(
        key=f"k-{name}-{number}",
        release_id=f"{name}@{number:012d}",
        name=name,
        content_hash=f"{abs(hash((name, number))):064x}"[:64],
        counts=counts,
        protocols={protocol: counts.get("total", 0)},
        path=f"{name}@{number:012d}",
        manifest={},
    )
    database.upsert("releases", [document])
    return document


def toy(name: str = "toy", steps: int = 60, more: str = "") -> Campaign:
    stage = STAGE.format(steps=steps)
    return parse_campaign(
        f"name: c\nrelease: {{name: {name}}}\n"
        f"training: {{ema_decay: 0.9, cutoff_a: 5.0, direct: {stage}, conservative: {stage}{more}}}"
    )


def lengths(found: Plan) -> Any:
    return found.facts["lengths"]


def test_the_papers_set_is_planned_from_its_counts(database: Database):
    """By hand: 61 and 101 steps an epoch, 70 and 30 epochs."""
    released(database, "aqvolt26", COUNTS)
    found = plan_train(load_campaign("aqvolt26"), database)
    assert found.missing == []
    assert (lengths(found)["direct"]["steps_per_epoch"], lengths(found)["direct"]["steps"]) == (61, 4270)
    assert lengths(found)["conservative"]["steps_per_epoch"] in (101, 102)
    assert "edges were not counted" in str(found.facts["lengths_from"])
    assert "edges_per_atom" not in lengths(found)["direct"]


@pytest.mark.parametrize("name", list(MIXTURES))
def test_the_papers_mixtures_load_and_plan(database: Database, name: str):
    """Stand-in releases of a tenth of a million frames; one of them a code's own, the others imported."""
    counts = COUNTS | {"total": 100_000, "atoms": 1_000_000, "by_split": {"train": 90_000}}
    for number, release in enumerate(MIXTURES[name]):
        released(database, release, counts, f"external:r2SCAN@{number}")
    found = plan_train(load_campaign(name), database)
    assert found.missing == []
    (item,) = found.items
    assert found.facts["release"] == " + ".join(f"{r}@{0:012d}" for r in MIXTURES[name])
    frames = 90_000 * len(MIXTURES[name])
    assert lengths(found)["direct"]["frames_seen"] == 70 * frames
    assert lengths(found)["direct"]["steps_per_epoch"] == -(-frames // 8_000)  # 8,000 frames of 10 atoms a batch
    flow = item.make()
    assert [s["name"] for s in flow.jobs[0].function_kwargs["sources"]] == MIXTURES[name]


def test_a_release_that_a_mixture_lacks_is_named(database: Database):
    released(database, "matpes", COUNTS)
    found = plan_train(load_campaign("matpes-mpaloe"), database)
    assert list(found.items) == []
    assert found.missing == [
        "training.mixture names the release 'mp-aloe', which the database does not hold; import its labels and run "
        "'aqvolt release create mp-aloe'"
    ]


def test_theory_levels_are_not_mixed_unless_told(database: Database):
    released(database, "a", FEW, "vasp:r2SCAN@1")
    released(database, "b", FEW, "vasp:PBE@2")
    mixture = ", mixture: [{release: a}, {release: b, weight: 0.5}]"
    found = plan_train(toy("a", more=mixture), database)
    (said,) = found.missing
    assert "would mix 2 theory levels (vasp:PBE@2 in b@000000000000; vasp:r2SCAN@1 in a@000000000000)" in said
    told = plan_train(toy("a", more=f"{mixture}, allow_mixed_protocols: true"), database)
    assert len(list(told.items)) == 1
    assert "theory" not in " ".join(told.missing)


def test_what_one_release_mixes_was_decided_when_it_was_made(database: Database):
    document = released(database, "a", COUNTS)
    mixed = document.model_copy(update={"protocols": {"vasp:r2SCAN@1": 5, "surrogate:x@2": 7}})
    database.upsert("releases", [mixed])
    assert "theory" not in " ".join(plan_train(toy("a"), database).missing)


def test_the_key_of_a_mixture_knows_contents_and_weights(database: Database):
    for number in (0, 1):
        released(database, "a", FEW, number=number)
    released(database, "b", FEW)

    def key(text: str) -> str:
        (item,) = plan_train(toy("a", more=f", mixture: [{text}]"), database).items
        return item.key

    base = key("{release: a}, {release: b}")
    assert key("{release: a}, {release: b, weight: 1.0}") == base
    assert key("{release: a@000000000001}, {release: b}") == base  # the newest a, by its identity
    assert key("{release: a@000000000000}, {release: b}") != base
    assert key("{release: a}, {release: b, weight: 0.5}") != base
    assert key("{release: b}, {release: a}") != base


def test_a_release_named_twice_is_refused(database: Database):
    released(database, "a", COUNTS)
    found = plan_train(toy("a", more=", mixture: [{release: a}, {release: a}]"), database)
    assert found.missing == ["training.mixture names 'a' twice; give it once, with the sum of the weights"]


def test_rates_are_no_part_of_the_key():
    stage = {"steps": 9, "max_atoms": 9, "max_neighbors": 9, "learning_rate": 1, "bf16": False}
    stage |= {"energy_coefficient": 1, "force_coefficient": 1}
    assert train_key({"direct": stage}, "ab") == train_key({"direct": stage | {"gpu_atoms_per_s": 5.0}}, "ab")


@pytest.fixture
def exported(database: Database) -> Database:
    """A release of 12 frames, with its export where releases are."""
    document = released(database, "toy", {"total": 12, "atoms": 24})
    folder = database.settings.path(database.settings.release_root) / document.path
    write_split(folder, "train", [label("LiCl", 5.13, seed) for seed in range(12)])
    return database


def test_an_export_is_counted_with_its_edges(exported: Database):
    """By hand: 12 frames of 2 atoms, 12 in a batch; 6 + 12 + 8 neighbors within 5 Å, a seventh shell at 5.13 Å."""
    found = plan_train(toy(), exported)
    assert found.missing == []
    told = lengths(found)["direct"]
    assert (told["steps_per_epoch"], told["epochs"], told["frames_seen"]) == (1, 60.0, 720)
    assert 25 < told["edges_per_atom"] < 29
    assert found.facts["lengths_from"] == "sizes of all training frames; edges of 12 of them"


def test_a_short_training_is_not_submitted(exported: Database):
    (direct, conservative) = plan_train(toy(steps=5), exported).missing
    assert "training.direct has 5 steps, fewer than the 10 that the averaged weights remember" in direct
    assert conservative.startswith("training.conservative has 5 steps")


def test_the_command_prints_the_length(exported: Database, project: Path):
    from aqvolt_launch.cli import stages

    plan = typer.Typer()
    plan.callback()(lambda: None)
    stages.register(plan)
    campaign = project / "toy.yaml"
    stage = STAGE.format(steps=60)
    campaign.write_text(
        f"name: {exported.campaign}\nrelease: {{name: toy}}\n"
        f"training: {{ema_decay: 0.9, cutoff_a: 5.0, direct: {stage}, conservative: {stage}}}"
    )
    said = CliRunner().invoke(plan, ["plan", "train", "--campaign", str(campaign)])
    assert said.exit_code == 0, said.output
    for words in (
        "Length of the training",
        "steps per epoch",
        "start weights left",
        "memory gib",
        "measured on an H100",
    ):
        assert words in said.output


def test_planning_imports_no_torch():
    code = (
        "import sys, aqvolt_flows.training.plan, aqvolt_flows.training.mixture, aqvolt_flows.training.preflight\n"
        "assert not {'torch', 'fairchem', 'sklearn', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_job_without_sources_is_as_it_was():
    """Jobs of earlier versions carry no sources, and no argument for them is written where there are none."""
    job = TrainStageMaker().make("r@1", "ab", "key")
    assert "sources" not in job.function_kwargs
