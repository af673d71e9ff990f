"""What loading a checkpoint by path would run, found without running it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.potentials import check_model, load_potential, model_hash
from aqvolt_flows.potentials.checkpoints import (
    channel_hash,
    check_names,
    check_targets,
    parse_name,
    split_pin,
    unpickled_names,
)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-done",)


@pytest.fixture
def harmful(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "inference_ckpt.pt"
    torch.save({"weights": torch.zeros(2), "more": Harmful()}, path)
    return path


def test_a_checkpoint_that_runs_code_is_refused_before_it_can(harmful, tmp_path):
    assert unpickled_names(harmful) == {"posix.mkdir"}
    with pytest.raises(InputError, match=f"would import posix.mkdir, .*@sha256:{file_sha256(harmful)}"):
        load_potential(f"fairchem:{harmful}").torchsim_model()
    assert not (tmp_path / "harm-done").exists()


def test_tensors_and_numbers_pass(tmp_path):
    torch.save({"weights": torch.zeros(2), "n": 3, "name": "x"}, tmp_path / "w.pt")
    check_names(tmp_path / "w.pt", (), "fairchem")
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"no.*checkpoint that torch wrote"):
        check_names(tmp_path / "text.pt", (), "fairchem")


def test_a_configuration_may_call_the_package_s_classes_only():
    ours = {"_target_": "aqvolt_flows.potentials.registry.Family"}
    check_targets(Path("c.pt"), {"tasks": [ours]}, "aqvolt_flows.potentials")
    check_targets(Path("c.pt"), {"_target_": "torch.DoubleTensor"}, "aqvolt_flows.potentials", ["torch.DoubleTensor"])
    for target in (
        "os.system",
        "aqvolt_flows.potentials.registry.importlib.import_module",  # reached through what a module imports
        "aqvolt_flows.potentials.registry.Path",  # a class of another package
        "aqvolt_flows.potentials.registry.batches",  # no class
        "aqvolt_flows.potentials.nothing.Here",
    ):
        with pytest.raises(InputError, match=r"would call .*: do not load this file"):
            check_targets(Path("c.pt"), {"tasks": [{"a": ours, "b": {"_target_": target}}]}, "aqvolt_flows.potentials")


def test_a_pinned_hash_is_checked(harmful, monkeypatch):
    from aqvolt_flows.potentials import registry

    assert split_pin("a/b.pt") == (Path("a/b.pt"), None)
    seen = file_sha256(harmful)
    check_model(f"fairchem:{harmful}@sha256:{seen}")
    assert model_hash(f"fairchem:{harmful}@sha256:{seen}") == model_hash(f"fairchem:{harmful}") == seen
    with pytest.raises(InputError, match="but 000000000000… was pinned"):
        check_model(f"fairchem:{harmful}@sha256:{'0' * 64}")
    with pytest.raises(InputError, match="does not end in 64 hexadecimal digits"):
        check_model(f"fairchem:{harmful}@sha256:{seen[:20]}")
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match=f"mace checkpoint runs code .* as mace:{harmful}@sha256:{seen}"):
        check_model(f"mace:{harmful}")
    check_model(f"mace:{harmful}@sha256:{seen}")


def test_what_is_missing_is_said_with_how_to_install_it(monkeypatch, tmp_path):
    from aqvolt_flows.errors import ResourceError
    from aqvolt_flows.potentials import registry

    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "m").write_text("x")
    for model, said in (
        ("mace:m", "mace-torch, into an environment of its own"),
        ("matgl:m", r"aqvolt-flows\[m3gnet\]"),
    ):
        with pytest.raises(ResourceError, match=said):
            check_model(model)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.pt", ("a.pt", None, None)),
        ("a.pt#omat", ("a.pt", "omat", None)),
        (f"a.pt#omat@sha256:{'0' * 64}", ("a.pt", "omat", "0" * 64)),
        ("/x#y/a.pt", ("/x#y/a.pt", None, None)),
        ("a.pt#", ("a.pt#", None, None)),
        ("#omat", ("#omat", None, None)),
    ],
)
def test_what_the_part_after_the_scheme_says(text, expected):
    name = parse_name(text)
    assert (str(name.path), name.channel, name.sha256) == expected


def test_a_file_whose_own_name_has_the_mark_is_taken_as_it_is(tmp_path):
    file = tmp_path / "a#b.pt"
    file.write_bytes(b"x")
    assert parse_name(str(file)).path == file
    assert parse_name(f"{file}#omat").channel == "omat"


def test_levels_of_theory_of_one_file_have_hashes_of_their_own():
    """Two tasks of one checkpoint are two energy surfaces: trajectories of both must not share a key."""
    assert len({channel_hash("0" * 64, c) for c in (None, "omat", "oc20")}) == 3
    assert channel_hash("0" * 64, None) == "0" * 64


@given(st.text(alphabet="ab/#.@", min_size=1, max_size=20))
def test_a_name_is_its_path_and_its_channel(text):
    name = parse_name(text)
    joined = f"{name.path}#{name.channel}" if name.channel else f"{name.path}"
    assert Path(joined) == Path(text)
