"""A labeler of another package that fails is named; the check-up and the recovery of the others go on."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.labelers import Labeler
from aqvolt_flows.schemas.parameters import LabelingParameters

HOLLOW = Labeler("hollow", "its module is not there", "no_such_module_of_a_labeler")


def test_a_module_that_does_not_import_is_a_sentence_a_row_and_no_result() -> None:
    with pytest.raises(ResourceError, match=r"labeler 'hollow' cannot be used.*No module named"):
        HOLLOW.protocol(LabelingParameters())
    (row,) = HOLLOW.doctor_rows(LabelingParameters(), [], None)
    assert (row.check, row.status) == ("labeler: hollow", "warn")
    assert "no_such_module_of_a_labeler" in row.detail
    (needed,) = HOLLOW.doctor_rows(LabelingParameters.model_construct(labeler="hollow"), [], None)
    assert needed.status == "fail"
    assert HOLLOW.salvage(None, {}, "frame-1", "k", Path()) is None


def test_functions_that_raise_are_a_row_and_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(*_given: object) -> None:
        raise RuntimeError("boom")

    module = types.ModuleType("labeler_that_raises")
    module.doctor_rows = module.salvage = boom
    monkeypatch.setitem(sys.modules, module.__name__, module)
    labeler = Labeler("raises", "it raises", module.__name__)
    (row,) = labeler.doctor_rows(LabelingParameters(), [], None)
    assert "RuntimeError: boom" in row.detail
    assert labeler.salvage(None, {}, "frame-1", "k", Path()) is None
    with pytest.raises(ResourceError, match="has no function maker_of"):
        labeler.maker(LabelingParameters())
