"""The spool between the passes: rows come back as they went in, in any order, whole batches or not."""

from __future__ import annotations

import numpy as np
import pytest
from conftest_release import make_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets import spool as spools
from aqvolt_flows.datasets.formats import rows_of
from aqvolt_flows.datasets.rows import row_from_label
from aqvolt_flows.datasets.spool import Spool

ROWS = [row_from_label(x.model_dump()) for x in make_labels(range(12)) + make_labels(range(12, 17), "LiF")]


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spools, "BATCH_ROWS", 5)
        yield


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, len(ROWS) - 1), unique=True), st.integers(1, 20))
def test_rows_return_in_the_order_asked_for(tmp_path_factory, order, block):
    path = tmp_path_factory.mktemp("spool") / "rows.arrow"
    with Spool(path) as spool:
        assert [spool.add(row) for row in ROWS] == list(range(len(ROWS)))
        spool.finish()
        tables = list(spool.tables(order, block))
        back = [row for table in tables for batch in table.to_batches() for row in rows_of(batch)]
        assert [row.digest() for row in back] == [ROWS[i].digest() for i in order]
        assert [row.label_id for row in back] == [ROWS[i].label_id for i in order]
        assert all(table.num_rows <= block for table in tables)
        for i in order[:3]:
            np.testing.assert_array_equal(spool.row(i).forces, ROWS[i].forces)


def test_an_empty_spool_has_no_rows(tmp_path):
    with Spool(tmp_path / "rows.arrow") as spool:
        spool.finish()
        spool.finish()
        assert list(spool.tables([])) == []
