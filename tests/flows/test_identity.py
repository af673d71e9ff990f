"""Keys: same content, same key; anything else, another. No expected hash is written: that would only freeze a bug."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import KEY_LENGTH, canonical_json, content_key, structure_hash

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), plain, min_size=1, max_size=6), st.randoms())
def test_the_order_of_a_mapping_does_not_change_its_key(parts, random):
    items = list(parts.items())
    random.shuffle(items)
    assert canonical_json(parts) == canonical_json(dict(items))


@given(plain, plain)
def test_different_content_has_different_canonical_text(a, b):
    if canonical_json(a) == canonical_json(b):
        assert a == b


def test_a_key_has_96_bits_and_depends_on_stage_and_parts():
    keys = {content_key("a", x=1), content_key("b", x=1), content_key("a", x=2), content_key("a", y=1)}
    assert len(keys) == 4
    assert all(len(k) == KEY_LENGTH and int(k, 16) >= 0 for k in keys)


def test_numpy_values_and_negative_zero_have_one_spelling():
    assert canonical_json(np.float64(0.5)) == "0.5"
    assert canonical_json(-0.0) == canonical_json(0.0) == "0.0"
    assert canonical_json(np.array([1, 2])) == "[1,2]"


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_has_no_spelling_is_refused(value):
    with pytest.raises(InputError, match="key cannot be made"):
        canonical_json({"x": value})


def rock_salt(a: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_a_structure_is_itself_up_to_wrapping_and_rounding():
    one = rock_salt(5.13)
    wrapped = one.copy()
    wrapped.translate_sites(range(len(wrapped)), [1, -2, 3], to_unit_cell=False)
    nearly = Structure(one.lattice, one.species, one.frac_coords - 1e-9)
    assert structure_hash(one) == structure_hash(wrapped) == structure_hash(nearly)
    assert structure_hash(one) != structure_hash(rock_salt(5.131))
