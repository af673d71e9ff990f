from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.parameters import StageParameters, TrainingParameters
from aqvolt_flows.training.layout import Layout, allocated_nodes, command, ends_at, layout_for, micro_batches

PAPER = TrainingParameters()


def stage(**values: object) -> StageParameters:
    return PAPER.conservative.model_copy(update=values)


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"),
    [
        (8, 4, Layout(4, 8, 1, 1_500)),  # section 2.3: 32 H100
        (8, 2, Layout(2, 8, 2, 1_500)),
        (4, 8, Layout(8, 4, 1, 1_500)),
        (8, 1, Layout(1, 8, 4, 1_500)),
        (3, 1, Layout(1, 2, 16, 1_500)),  # three do not divide 32
        (1, 1, Layout(1, 1, 32, 1_500)),
        (
            6,
            3,
            Layout(2, 4, 4, 1_500),
        ),  # 18 and 12 do not divide 32, and 16 cannot be spread evenly over three nodes of 6
    ],
)
def test_the_papers_batch_on_any_number_of_gpus(devices: int, nodes: int, expected: Layout):
    """48,000 atoms a step (Table S1), whatever there is."""
    found = layout_for(PAPER.conservative, devices, nodes)
    assert found == expected
    assert found.atoms_per_step_limit == 48_000


def test_the_first_stage_is_80_000_atoms_on_8_gpus_and_on_one():
    assert layout_for(PAPER.direct, 8) == Layout(1, 8, 1, 10_000)
    assert layout_for(PAPER.direct, 1) == Layout(1, 1, 8, 10_000)
    assert layout_for(PAPER.direct, 1).atoms_per_step_limit == 80_000


def test_a_batch_in_atoms_gives_the_accumulation():
    assert layout_for(stage(ranks=1, batch_atoms=48_000), 8) == Layout(1, 1, 32, 1_500)
    assert layout_for(stage(ranks=4, batch_atoms=48_000), 4) == Layout(1, 4, 8, 1_500)
    assert layout_for(stage(ranks=1, max_atoms=700, batch_atoms=48_000), 1).atoms_per_step_limit == 48_300  # 69 × 700
    assert micro_batches(stage(ranks=1, batch_atoms=10)) == 1


@given(
    st.integers(1, 64), st.integers(1, 64), st.integers(1, 9), st.none() | st.integers(1, 10**6), st.integers(1, 10**4)
)
def test_the_batch_does_not_depend_on_the_machine(ranks, devices, nodes, batch, max_atoms):
    chosen = stage(ranks=ranks, batch_atoms=batch, max_atoms=max_atoms)
    found = layout_for(chosen, devices, nodes)
    assert found.ranks * found.accumulation == micro_batches(chosen)
    assert found.ranks <= ranks
    assert found.nodes <= nodes
    assert found.ranks_per_node <= devices


def test_no_device_is_one_sentence():
    with pytest.raises(ResourceError, match=r"0 devices on 1 nodes.*CUDA_VISIBLE_DEVICES"):
        layout_for(PAPER.direct, 0)


def test_one_rank_is_one_process():
    assert command(Layout(), Path("c.yaml"))[1:] == ["-m", "aqvolt_flows.training.torchrun", "c.yaml"]


def test_several_ranks_of_one_node_are_torchrun():
    assert {"--standalone", "--nproc-per-node=8"} <= set(command(Layout(1, 8), Path("c.yaml")))


def test_several_nodes_are_one_torchrun_each_under_srun():
    environment = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "4", "SLURMD_NODENAME": "n001"}
    assert allocated_nodes(environment) == 4
    found = command(Layout(4, 8), Path("c.yaml"), environment)
    assert found[:4] == ["srun", "--nodes=4", "--ntasks=4", "--ntasks-per-node=1"]
    assert {"--nnodes=4", "--nproc-per-node=8", "--rdzv-backend=c10d", "--rdzv-id=77"} <= set(found)
    (endpoint,) = [a for a in found if a.startswith("--rdzv-endpoint=n001:")]
    assert int(endpoint.rpartition(":")[2]) > 0


@pytest.mark.parametrize("environment", [{}, {"SLURM_NNODES": "4"}, {"SLURM_JOB_ID": "1", "SLURM_NNODES": "many"}])
def test_outside_an_allocation_there_is_one_node(environment: dict):
    assert allocated_nodes(environment) == 1


def test_the_end_is_the_earlier_of_walltime_and_allocation():
    assert ends_at(None, 120, 1000, {}) is None
    assert ends_at(50, 120, 1000, {}) == 1050
    assert ends_at(None, 120, 1000, {"SLURM_JOB_END_TIME": "5000"}) == 4880
    assert ends_at(9000, 120, 1000, {"SLURM_JOB_END_TIME": "5000"}) == 4880
    assert ends_at(None, 120, 1000, {"SLURM_JOB_END_TIME": "soon"}) is None
