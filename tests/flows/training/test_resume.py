from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import labelled, open_split, source_of
from aqvolt_flows.training.esen import stage_config
from aqvolt_flows.training.layout import layout_for
from aqvolt_flows.training.lmdb_file import check_whole
from aqvolt_flows.training.preflight import preflight
from aqvolt_flows.training.references import reference_energies
from aqvolt_flows.training.resume import CODE, ResumeError, check_same, identity

HASH = {"release": "ab" * 32}


def identity_of(release: Path, workdir: Path, devices: int = 1, data: dict[str, str] = HASH, **values: Any) -> dict:
    parameters = TrainingParameters(**values)
    train = open_split(release, "train")
    references = reference_energies(labelled(train))
    layout = layout_for(parameters.direct, devices)
    config = stage_config(
        "direct", parameters, train.folder, train.folder, references, workdir, "direct", "cpu", None, layout
    )
    return identity(config, data)


def test_the_same_run_elsewhere_is_the_same(release: Path, tmp_path: Path):
    check_same(tmp_path, identity_of(release, tmp_path / "a"), "strict")
    moved = release.rename(release.with_name("moved"))
    check_same(tmp_path, identity_of(moved, tmp_path / "b"), "strict")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"release": "cd" * 32}}, r'data\.release was "abab.* and is "cdcd'),
        ({"devices": 8}, r"ranks was 1 and is 8"),
        ({"seed": 1}, r"seed was 0 and is 1"),
        ({"weight_decay": 0.5}, r"weight_decay was 0\.001 and is 0\.5"),
        ({"n_layers": 2}, r"num_layers was 4 and is 2"),
        ({"max_loss_ratio": 50.0}, r"max_loss_ratio was 10000\.0 and is 50\.0"),
    ],
)
def test_what_differs_is_named_and_may_be_allowed(release: Path, tmp_path: Path, change: dict, said: str):
    check_same(tmp_path, identity_of(release, tmp_path), "strict")
    now = identity_of(release, tmp_path, **change)
    with pytest.raises(ResumeError, match=said + r".*training\.resume: any"):
        check_same(tmp_path, now, "strict")
    check_same(tmp_path, now, "any")
    check_same(tmp_path, now, "strict")  # from now on it is what it was continued as


def test_another_version_of_the_code_is_named(release: Path, tmp_path: Path):
    begun = identity_of(release, tmp_path)
    assert begun["code.fairchem-core"]
    assert begun["code.torch"]
    check_same(tmp_path, begun | {"code.fairchem-core": "2.0.0"}, "strict")
    with pytest.raises(ResumeError, match=r'code\.fairchem-core was "2\.0\.0" and is'):
        check_same(tmp_path, begun, "strict")
    assert {f"code.{name}" for name in CODE} <= begun.keys()


def test_last_digits_of_a_fit_are_no_difference(tmp_path: Path):
    check_same(tmp_path, {"references": [0.1, 2.0]}, "strict")
    check_same(tmp_path, {"references": [0.1 + 1e-15, 2.0]}, "strict")
    with pytest.raises(ResumeError, match="references"):
        check_same(tmp_path, {"references": [0.1 + 1e-3, 2.0]}, "strict")


def test_many_differences_are_counted(tmp_path: Path):
    check_same(tmp_path, {f"n{i}": 0 for i in range(10)}, "strict")
    with pytest.raises(ResumeError, match="and 4 more"):
        check_same(tmp_path, {f"n{i}": 1 for i in range(10)}, "strict")


def test_a_record_that_was_cut_short_is_written_anew(tmp_path: Path):
    (tmp_path / "started.json").write_text('{"ranks": 1')
    check_same(tmp_path, {"ranks": 2}, "strict")
    check_same(tmp_path, {"ranks": 2}, "strict")


@pytest.mark.parametrize("left", [0, 3, 4096, 8192, -1])
def test_a_truncated_lmdb_is_one_sentence_and_no_bus_error(release: Path, left: int):
    """Cut in the first page, between the two meta pages, behind them, and in the last page."""
    (file,) = (release / "exports/aselmdb/val").glob("*.aselmdb")
    check_whole(file)
    with file.open("r+b") as handle:
        handle.truncate(left if left >= 0 else file.stat().st_size + left)
    with pytest.raises(InputError, match=r"cut short|not a whole LMDB file"):
        preflight([source_of(release)], TrainingParameters())
