"""What loading a checkpoint by path would run, found without running it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.potentials import check_model, load_potential, model_hash
from aqvolt_flows.potentials.checkpoints import (
    channel_hash,
    check_config,
    check_names,
    parse_name,
    split_pin,
    unpickled_names,
)
from aqvolt_flows.potentials.fairchem import CALLS
from aqvolt_flows.potentials.trust import trust, trust_file, trusted_hashes


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
    with pytest.raises(InputError, match=f"known neither to 'models' nor to you; .*@sha256:{file_sha256(harmful)}"):
        load_potential(f"fairchem:{harmful}")
    with pytest.raises(InputError, match=r"would import posix.mkdir, .* do not load this file"):
        load_potential(f"fairchem:{harmful}@sha256:{file_sha256(harmful)}").torchsim_model()
    assert not (tmp_path / "harm-done").exists()


def test_tensors_and_numbers_pass(tmp_path):
    torch.save({"weights": torch.zeros(2), "n": 3, "name": "x"}, tmp_path / "w.pt")
    check_names(tmp_path / "w.pt", (), "fairchem")
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"no.*checkpoint that torch wrote"):
        check_names(tmp_path / "text.pt", (), "fairchem")


GOOD = {
    "_target_": "fairchem.core.models.base.HydraModel",
    "backbone": {"model": "fairchem.core.models.uma.escn_md.eSCNMDBackbone", "cutoff": 6.0, "dataset_mapping": {}},
    "heads": {"energy": {"module": "fairchem.core.models.uma.escn_md.MLP_EFS_Head"}},
    "note": "omat.energy of v1.2, written 2026-01-01",
}
#: What would run a shell command if hydra, OmegaConf or fairchem's registry read it; each was tried against them.
BAD = [
    ({"note": "${oc.create:{_target_: sympy.sympify, a: 'x'}}"}, "interpolation"),
    ({"note": {"deep": ["${oc.env:HOME}"]}}, "interpolation"),
    ({"${oc.env:HOME}": 1}, "interpolation"),
    ({"a": "x ${.b} y"}, "interpolation"),
    ({"a": {"_target_": "os.system", "_args_": ["true"]}}, "would call os.system"),
    ({"a": {"_target_": "fairchem.core.common.registry.importlib.import_module"}}, "would call"),
    ({"a": {"_target_": "fairchem.core._cli.main"}}, "would call"),
    ({"a": {"_target_": "nothing_of_this_name"}}, "would call"),
    ({"backbone": {"model": "subprocess.Popen", "args": "true"}}, "would call subprocess.Popen"),
    ({"heads": {"energy": {"module": "os.system"}}}, "would call os.system"),
    ({"heads": {"e": {"module": GOOD["heads"]["energy"]["module"], "head_cls": "posix.system"}}}, "would call posix"),
    ({"a": ["x", {"b": "builtins.exec"}]}, "would call builtins.exec"),
    ({"a": b"os.system"}, "holds a bytes"),
    ({"a": Path("x")}, "holds a PosixPath"),
]


def test_a_configuration_is_plain_values_and_classes_of_such_checkpoints():
    check_config(Path("c.pt"), GOOD, CALLS)
    for change, said in BAD:
        with pytest.raises(InputError, match=said):
            check_config(Path("c.pt"), GOOD | change, CALLS)
        with pytest.raises(InputError, match=said):
            check_config(Path("c.pt"), {**GOOD, "more": [1, {"inside": change}]}, CALLS)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_interpolation_passes_wherever_it_stands(inside):
    check_config(Path("c.pt"), {"a": 1, "b": "three words here"}, CALLS)
    with pytest.raises(InputError):
        check_config(Path("c.pt"), {"a": [inside, {"b": "${now:}"}]}, CALLS)


@pytest.mark.slow  # imports fairchem
def test_a_genuine_checkpoint_loads_and_one_with_an_interpolation_runs_nothing(tmp_path, monkeypatch):
    """The attack: OmegaConf resolves the text into a target, and sympify evaluates it."""
    pytest.importorskip("fairchem.core")
    from omegaconf import OmegaConf
    from saved_models import save_esen

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    name = save_esen(tmp_path / "good.pt")
    genuine = torch.load(tmp_path / "good.pt", weights_only=False)
    assert load_potential(name).torchsim_model() is not None
    marker = tmp_path / "harm-done"
    call = f"__import__('os').system('touch {marker}')"
    attack = {"x": f'${{oc.create:{{_target_: sympy.sympify, a: "{call}"}}}}'}
    for number, part in enumerate((attack, OmegaConf.create(attack))):
        genuine.model_config["more"] = part
        path = tmp_path / f"evil{number}.pt"
        torch.save(genuine, path)
        for pin in ("", f"@sha256:{file_sha256(path)}"):
            with pytest.raises(InputError, match=r"known neither|interpolation"):
                load_potential(f"fairchem:{path}{pin}").torchsim_model()
    genuine.model_config["more"] = None
    genuine.model_config["finetune_config"] = {"starting_checkpoint": "elsewhere/weights"}
    torch.save(genuine, tmp_path / "more.pt")
    with pytest.raises(InputError, match="loads another checkpoint"):
        load_potential(f"fairchem:{tmp_path / 'more.pt'}@sha256:{file_sha256(tmp_path / 'more.pt')}").torchsim_model()
    assert not marker.exists()


def test_a_trusted_hash_loads_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "inference_ckpt.pt"
    path.write_bytes(b"weights")
    with pytest.raises(InputError, match=f"run 'aqvolt model trust {path}'"):
        check_model(f"fairchem:{path}")
    assert trust(file_sha256(path), path) is True
    assert trust(file_sha256(path), path) is False
    assert trust_file().stat().st_mode & 0o777 == 0o600
    assert list(trusted_hashes()) == [file_sha256(path)]
    check_model(f"fairchem:{path}")
    path.write_bytes(b"other weights")
    with pytest.raises(InputError, match="known neither"):
        check_model(f"fairchem:{path}")
    trust_file().chmod(0o622)
    with pytest.raises(ResourceError, match="can be written by others"):
        check_model(f"fairchem:{path}")


def test_a_model_trained_here_loads_by_its_path(database, tmp_path):
    from aqvolt_flows.schemas.provenance import ArtifactRef

    path = tmp_path / "inference_ckpt.pt"
    path.write_bytes(b"weights")
    with pytest.raises(InputError, match="known neither"):
        check_model(f"fairchem:{path}")
    checkpoint = ArtifactRef(sha256=file_sha256(path), format="pt", bytes=7).model_dump()
    database["models"].insert_one({"model_id": "m", "key": "k", "status": "trained", "checkpoint": checkpoint})
    check_model(f"fairchem:{path}")


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
    with pytest.raises(InputError, match=f"mace checkpoint can run code .* as mace:{harmful}@sha256:{seen}"):
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
