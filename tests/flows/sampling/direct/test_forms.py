"""Features in every form that people have them in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling import TwoStageDirect, direct_select

X = np.random.default_rng(0).normal(size=(200, 6))
FORMS = {
    "nested lists": lambda x: x.tolist(),
    "DataFrame": lambda x: pd.DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])]),
    "tensor": lambda x: torch.tensor(x, requires_grad=True),
    "list of rows": list,
    "list of tensor rows": lambda x: [torch.tensor(row) for row in x],
    "arrays as shards": lambda x: [x[:30], x[30:]],
    "lists as shards": lambda x: [x[:30].tolist(), x[30:].tolist()],
    "frames as shards": lambda x: (pd.DataFrame(x[:30]), pd.DataFrame(x[30:])),
    "a generator of tensors": lambda x: (torch.tensor(part) for part in (x[:30], x[30:])),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_features_does_not_matter(form):
    np.testing.assert_array_equal(direct_select(FORMS[form](X), 0.4), direct_select(X, 0.4))


@pytest.mark.parametrize("form", FORMS)
def test_nor_does_it_in_two_stages(form):
    n = np.full(50, 4)
    method, atoms = TwoStageDirect(structure_threshold=0.4, atom_threshold=0.4), X
    structures = X[::4]
    expected = method.select(structures, atoms, n)
    found = method.select(FORMS[form](structures), FORMS[form](atoms), n.tolist())
    np.testing.assert_array_equal(found.indices, expected.indices)
    again = method.extend(found.state, FORMS[form](structures), FORMS[form](atoms), torch.tensor(n))
    assert again.coverage == method.extend(expected.state, structures, atoms, n).coverage


def test_half_precision_tensors_are_read():
    found = direct_select(torch.tensor(X).bfloat16(), 0.4)
    np.testing.assert_array_equal(found, direct_select(torch.tensor(X).bfloat16().float().numpy(), 0.4))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("features.npy", "features is a str; expected numbers of shape"),
        (5, "features is a int"),
        (None, "features is a NoneType"),
        ({"a": [1.0]}, "features is a dict"),
        (object(), "features is a object"),
        ([], "features has no rows"),
        ([1.0, 2.0], r"features has shape \(2,\); expected \(rows, columns\)"),
        (pd.Series([1.0, 2.0]), r"features has shape \(2,\)"),
        (torch.zeros(3), r"features has shape \(3,\)"),
        ([[1.0, 2.0], [3.0]], "rows of different lengths"),
        ([["a", "b"]], "features holds <U1; expected numbers"),
        (pd.DataFrame({"a": [1.0, 2.0], "formula": ["LiCl", "LiF"]}), "the column 'formula' of .*expected numbers"),
        ([np.zeros((2, 2)), "x"], "features holds a str"),
        (pd.DataFrame({"a": [1.0, np.nan]}), "1 rows with NaN or infinity, first row 1"),
    ],
    ids=range(14),
)
def test_anything_else_is_named(given, said):
    with pytest.raises(InputError, match=said):
        direct_select(given)
