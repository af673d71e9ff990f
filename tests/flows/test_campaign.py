"""Campaign files: the shipped ones load, the paper's numbers are in, and mistakes are told in a sentence."""

from __future__ import annotations

import pytest

from aqvolt_flows.campaign import load_campaign, parse_campaign, shipped_campaigns
from aqvolt_flows.errors import ConfigError


def test_shipped_campaigns_load():
    assert {"aqvolt26", "demo"} <= set(shipped_campaigns())
    for name in shipped_campaigns():
        assert load_campaign(name).name == name


def test_the_papers_numbers():
    """Numbers of the AQVolt26 text: sections 2.1-2.3 and Table S1."""
    c = load_campaign("aqvolt26")
    assert c.exploration.temperatures_k == [300, 600, 900, 1200, 1500]
    assert c.exploration.n_steps * c.exploration.timestep_fs == 50_000  # 50 ps
    assert c.exploration.pressure_gpa == pytest.approx(1.01325e-4)  # 1 atm
    assert (c.sampling.structure_threshold, c.sampling.atom_threshold) == (0.1, 0.1)
    assert c.labeling.labeler == "vasp"
    assert c.labeling.functional == "r2SCAN"
    assert (c.aimd.timestep_fs, c.aimd.timestep_with_hydrogen_fs) == (2.0, 0.5)
    assert c.aimd.n_steps * c.aimd.timestep_fs < 1000  # less than a picosecond
    assert (c.release.train_fraction, c.release.val_fraction, c.release.test_fraction) == (0.90, 0.05, 0.05)
    assert (c.release.max_force_ev_per_a, c.release.max_cohesive_energy_ev) == (800.0, 0.0)
    t = c.training
    assert (t.n_layers, t.sphere_channels, t.hidden_channels, t.lmax, t.mmax, t.n_distance_basis) == (
        4,
        128,
        128,
        2,
        2,
        64,
    )
    assert (t.cutoff_a, t.weight_decay) == (6.0, 1e-3)
    assert (t.direct.max_neighbors, t.direct.bf16, t.direct.learning_rate) == (30, True, 8e-4)
    assert (t.conservative.max_neighbors, t.conservative.bf16, t.conservative.learning_rate) == (300, False, 4e-4)
    assert t.direct.max_atoms * t.direct.ranks == 80_000
    assert t.conservative.max_atoms * t.conservative.ranks == 48_000
    assert (t.direct.ranks, t.conservative.ranks) == (8, 32)  # H100 cards
    assert (c.benchmarks.ev_scan.n_points, c.benchmarks.ev_scan.max_linear_strain) == (21, 0.20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nexploration: {timestep_ps: 0.001}", "did you mean timestep_fs (the unit is part of the name)"),
        ("name: x\nexploration: {timestep_fs: 2 ps}", "expected a valid number in fs"),
        ("name: x\nexploration: {timestep_fs: 100.0}", "less than or equal to 10"),
        (
            "name: x\nexploration: {temperatures_k: [300.0, -5.0]}",
            "exploration.temperatures_k.1 is -5.0; expected greater than 0",
        ),
        ("name: x\nsampling: {structure_treshold: 0.1}", "did you mean structure_threshold"),
        ("name: x\nfrobnicate: 1", "known keys: name, description, candidates"),
        ("name: x\nrelease: {train_fraction: 0.5}", "must add up to 1"),
        (
            "name: x\ntraining: "
            "{direct: {steps: 1, epochs: 1, max_atoms: 1, max_neighbors: 1, learning_rate: 0.1, bf16: true,"
            " energy_coefficient: 1, force_coefficient: 1}}",
            "exactly one of steps and epochs",
        ),
        ("description: x", "name is missing"),
        ("- a\n- b", "holds a list"),
        ("name: [", "is not YAML"),
    ],
)
def test_a_mistake_is_one_sentence(text, said):
    with pytest.raises(ConfigError) as error:
        parse_campaign(text, "c.yaml")
    message = str(error.value)
    assert said in message
    assert message.startswith("c.yaml")
    assert "\n" not in message


def test_an_unknown_campaign_names_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"aqvolt26, aqvolt26-matpes-mpaloe, .*, demo, "):
        load_campaign("nowhere.yaml")
