"""The exact tests of the min–max controller, and what it does in a real environment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlprune.agents.prc import PRC, largest_harmless, pressure

fractions = st.floats(0, 1)


@given(accuracy=fractions, baseline=fractions, tolerance=fractions)
def test_pressure_is_never_negative_and_zero_at_or_beyond_the_edge(accuracy, baseline, tolerance):
    value = pressure(accuracy, baseline, tolerance)
    assert value >= 0
    if accuracy <= baseline - tolerance and tolerance > 0:
        assert value == 0


@given(baseline=st.floats(0.5, 1), tolerance=st.floats(0.01, 0.5), share=fractions)
def test_pressure_falls_linearly_from_one_to_zero(baseline, tolerance, share):
    assert pressure(baseline - share * tolerance, baseline, tolerance) == pytest.approx(1 - share, abs=1e-9)


@given(drops=st.lists(st.floats(0, 1), max_size=60), tolerance=fractions)
def test_bisection_finds_the_tolerance_on_a_monotone_curve(drops, tolerance):
    curve = [0.0, *np.cumsum(drops)]
    calls = []

    def drop(count):
        calls.append(count)
        return curve[count]

    found = largest_harmless(len(drops), drop, tolerance)
    assert found == max(k for k in range(len(curve)) if curve[k] <= tolerance)
    assert len(calls) <= np.ceil(np.log2(len(drops) + 1)) + 1


@pytest.mark.parametrize("option", ["penalty", "delta", "afp_epochs", "lr", "orthogonality"])
def test_constants_must_be_finite_and_not_negative(option):
    with pytest.raises(ValueError, match=option):
        PRC(**{option: -1.0})
