from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.labeling.labelers import check_labeler, labeler_maker, protocol_for
from aqvolt_flows.labeling.protocols import gpaw_protocol, label_key, surrogate_protocol
from aqvolt_flows.schemas.parameters import LabelingParameters


def test_each_labeler_has_its_own_protocol_and_maker():
    found = {n: protocol_for(LabelingParameters(labeler=n)) for n in ("vasp", "gpaw", "surrogate")}
    assert len({p.protocol_id for p in found.values()}) == 3
    assert found["vasp"].functional == found["gpaw"].functional == "r2SCAN"
    assert found["surrogate"].name == "surrogate:chgnet/r2scan@8eba3db0f35a"
    names = {n: type(labeler_maker(LabelingParameters(labeler=n)).static_maker).__name__ for n in found}
    assert names == {"vasp": "R2scanStaticMaker", "gpaw": "GpawStaticMaker", "surrogate": "SurrogateStaticMaker"}


def test_parameters_reach_the_maker_and_the_protocol():
    parameters = LabelingParameters(labeler="gpaw", gpaw_ecut_ev=400.0, gpaw_kspacing=0.5)
    maker = labeler_maker(parameters).static_maker
    assert (maker.ecut_ev, maker.kspacing) == (400.0, 0.5)
    assert protocol_for(parameters) == gpaw_protocol(400.0, 0.5) != gpaw_protocol(680.0, 0.22)
    vasp = LabelingParameters(incar_updates={"ENAUG": 1360})
    assert labeler_maker(vasp).static_maker.incar_updates == {"ENAUG": 1360}


def test_the_same_checkpoint_is_one_protocol_wherever_it_lies(tmp_path):
    paths = [tmp_path / name / "inference_ckpt.pt" for name in ("a", "b", "c")]
    for path, content in zip(paths, (b"weights", b"weights", b"others"), strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    first, second, third = (surrogate_protocol(f"fairchem:{p}") for p in paths)
    assert first.protocol_id == second.protocol_id != third.protocol_id
    assert str(tmp_path) not in first.name


def test_unknown_surrogate_and_missing_resources_are_sentences(monkeypatch: pytest.MonkeyPatch, tmp_path):
    from pymatgen.core import SETTINGS

    with pytest.raises(InputError, match="did you mean 'chgnet/r2scan'"):
        protocol_for(LabelingParameters(labeler="surrogate", surrogate="chgnet/r2scam"))
    monkeypatch.delenv("VASP_CMD", raising=False)
    monkeypatch.delenv("PMG_VASP_PSP_DIR", raising=False)
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)
    with pytest.raises(ResourceError, match="VASP_CMD is not set"):
        check_labeler(LabelingParameters())
    monkeypatch.setenv("VASP_CMD", "srun-that-is-nowhere vasp_std")
    with pytest.raises(ResourceError, match="no executable here"):
        check_labeler(LabelingParameters())
    monkeypatch.setenv("VASP_CMD", f"{sys.executable} -V")
    with pytest.raises(ResourceError, match="PMG_VASP_PSP_DIR is not set"):
        check_labeler(LabelingParameters())
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path))
    check_labeler(LabelingParameters())
    with pytest.raises(ResourceError, match=r"missing for Cl \(Cl\), Li \(Li_sv\)"):
        check_labeler(LabelingParameters(), ["Li", "Cl"])
    check_labeler(LabelingParameters(labeler="surrogate"))


def test_missing_gpaw_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gpaw" else real(name, *a))
    with pytest.raises(ResourceError, match="GPAW, which is not installed"):
        check_labeler(LabelingParameters(labeler="gpaw"))


@given(st.text(min_size=1), st.text(min_size=1))
def test_keys_follow_frame_and_protocol(one: str, other: str):
    a, b = surrogate_protocol("chgnet/r2scan"), gpaw_protocol(400.0, 0.5)
    assert (label_key(one, a) == label_key(other, a)) == (one == other)
    assert label_key(one, a) != label_key(one, b)


def test_version_is_no_part_of_the_key():
    protocol = surrogate_protocol("chgnet/r2scan")
    assert label_key("f", protocol) == label_key("f", protocol.model_copy(update={"version": "99"}))


def test_importing_the_stage_imports_no_code_that_computes():
    heavy = ["torch", "chgnet", "sevenn", "gpaw", "atomate2.vasp", "custodian", "matplotlib"]
    program = (
        "import sys, ase.io\n"  # imports gpaw's plug-in for a file format, where GPAW is installed
        "before = {m for m in sys.modules if m.split('.')[0] == 'gpaw'}\n"
        "import aqvolt_flows.labeling.labelers, aqvolt_flows.labeling.protocols, aqvolt_flows.exploration.aimd\n"
        f"inside = lambda m: any(m == h or m.startswith(h + '.') for h in {heavy!r})\n"
        "print(sorted(m for m in set(sys.modules) - before if inside(m)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
