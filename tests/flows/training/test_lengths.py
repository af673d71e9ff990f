from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter

from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.edges import EdgeCount
from aqvolt_flows.training.lengths import memory_gib, stage_length, too_short, training_lengths

#: The paper's training set: 90 % of 322,656 labels of 16.7 atoms on average.
PAPER = np.diff(np.round(np.arange(290_391) * 16.7)).astype(np.int64)


def changed(stage: str, **changes: Any) -> TrainingParameters:
    p = TrainingParameters()
    values = getattr(p, stage).model_dump() | changes
    return TrainingParameters(**{**p.model_dump(), stage: values})


def test_the_papers_set_has_plausible_steps():
    """By hand: 290,390 × 16.7 / 80,000 = 60.6 and / 48,000 = 101.03 batches of whole structures, 70 and 30 epochs."""
    direct, conservative = training_lengths(load_campaign("aqvolt26").training, [PAPER])
    assert (direct.steps_per_epoch, direct.steps) == (61, 4270)
    assert conservative.steps_per_epoch in (101, 102)
    assert conservative.steps == 30 * conservative.steps_per_epoch
    assert direct.atoms_seen == 70 * PAPER.sum()
    assert (direct.batch_atoms, conservative.batch_atoms) == (80_000, 48_000)
    assert (direct.warmup_steps, direct.ema_memory_steps) == (61, 1000)
    assert direct.start_weights_left == pytest.approx(0.999**4269)
    assert too_short(load_campaign("aqvolt26").training, [direct, conservative]) == []


def test_one_epoch_is_refused_with_what_to_set():
    """One epoch of the paper's set: 61 steps, of which 0.999^60 = 94 % of the exported weights are the first."""
    p = changed("direct", epochs=1)
    memory, warmup = too_short(p, training_lengths(p, [PAPER]))
    assert memory.startswith("training.direct has 61 steps, fewer than the 1000 that the averaged weights remember")
    assert "94% of what is exported" in memory
    assert "set training.direct.epochs to at least 17, or training.ema_decay to 0.836" in memory
    assert warmup.startswith("training.direct has 61 steps and a warm-up of 61")
    # what is advised is accepted
    for advised in (changed("direct", epochs=17), p.model_copy(update={"ema_decay": 0.836})):
        assert not [s for s in too_short(advised, training_lengths(advised, [PAPER])) if "averaged" in s]


def test_a_length_in_steps_is_advised_in_steps():
    p = changed("conservative", epochs=None, steps=300)
    (said,) = too_short(p, training_lengths(p, [PAPER]))
    assert "set training.conservative.steps to at least 1000" in said


@pytest.mark.parametrize("name", ["demo", "mini"])
def test_small_presets_are_long_enough(name: str):
    """Also on a hundred frames, as few as a demo has."""
    p = load_campaign(name).training
    assert too_short(p, training_lengths(p, [np.full(100, 8)])) == []


def test_weights_count_in_an_epoch():
    """By hand: 1,000 and 500 of 2,000 frames of 10 atoms, 80,000 atoms a batch."""
    p = TrainingParameters(mixture=[{"release": "a"}, {"release": "b", "weight": 0.25}])
    found = stage_length("direct", p, [np.full(1000, 10), np.full(2000, 10)])
    assert found.frames_seen == 70 * 1500
    assert found.steps_per_epoch == 1


def test_hours_follow_from_the_rate_that_is_given():
    p = changed("direct", gpu_atoms_per_s=20_000)
    found = stage_length("direct", p, [PAPER])
    assert found.gpu_hours == pytest.approx(70 * PAPER.sum() / 20_000 / 3600)
    assert found.hours == pytest.approx(found.gpu_hours / 8)
    assert found.rate_from == "training.direct.gpu_atoms_per_s"


@pytest.mark.parametrize(("stage", "rate"), [("direct", 14_700), ("conservative", 1_940)])
def test_hours_follow_from_what_was_measured_where_no_rate_is_given(stage, rate):
    """Rates of docs/performance/training.md."""
    found = stage_length(stage, TrainingParameters(), [PAPER])
    assert found.gpu_hours == pytest.approx(found.atoms_seen / rate / 3600)
    assert "measured on an H100 at" in found.rate_from


def test_memory_is_what_was_counted_at_table_s1s_sizes():
    """Counted on a CPU: 30 GiB for 10,000 atoms at 31 edges in bf16, 44 GiB for 1,500 atoms at 56 edges in FP32."""
    p = TrainingParameters()
    assert memory_gib("direct", p, 310_000) == pytest.approx(29.3, abs=0.1)
    assert memory_gib("conservative", p, 1500 * 56) == pytest.approx(44.1, abs=0.1)
    edges = EdgeCount(frames=1, atoms=100, edges=5600)
    found = stage_length("conservative", p, [PAPER], edges)
    assert (found.edges_per_atom, found.edges_per_batch) == (56.0, 84_000)
    assert found.memory_gib == pytest.approx(44.1, abs=0.1)


def test_what_is_left_of_the_start_is_that_of_torchs_average():
    """Independent: scipy's recursive filter y = d y + (1 - d) x, begun at the first step as torch's average is."""
    decay, steps = 0.9, 40
    weights = np.zeros(steps)
    weights[0] = 1.0  # one at the first step, zero afterwards: what is left of the first
    averaged, _ = lfilter([1 - decay], [1, -decay], weights[1:], zi=[decay * weights[0]])
    p = TrainingParameters(**{**changed("direct", epochs=None, steps=steps).model_dump(), "ema_decay": decay})
    assert stage_length("direct", p, [PAPER]).start_weights_left == pytest.approx(averaged[-1])
