"""The statistics agree with their definitions and say "unknown" where they must."""

import math

import numpy as np
import pytest

from rlprune.report.statistics import (
    images_needed,
    mean_interval,
    paired_differences,
    rank_table,
    resolution,
    spearman,
)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        found = mean_interval(generator.normal(0.5, 0.1, 3).tolist())
        inside += found.low <= 0.5 <= found.high
    assert 0.935 < inside / 2000 < 0.965


def test_one_seed_has_no_interval():
    found = mean_interval([0.7])
    assert (found.mean, found.low, found.high, found.n) == (0.7, None, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_pairing_takes_out_what_the_seeds_share():
    baseline = {0: 0.50, 1: 0.70, 2: 0.90}
    theirs = {seed: value + 0.01 for seed, value in baseline.items()} | {7: 0.1}
    found = paired_differences(theirs, baseline)
    assert found.difference.mean == pytest.approx(0.01)
    assert found.difference.high - found.difference.low < 1e-9
    assert (found.wins, found.losses, found.ties, found.difference.n) == (3, 0, 0, 3)
    assert paired_differences({0: 1.0}, {1: 1.0}) is None


def test_the_rank_table_leaves_out_blocks_with_a_failure():
    blocks = {
        0: {"a": 0.9, "b": 0.8, "c": 0.8},
        1: {"a": 0.5, "b": 0.6, "c": 0.4},
        2: {"b": 1.0, "c": 0.0},
    }
    table = rank_table(blocks)
    assert [row.name for row in table] == ["a", "b", "c"]
    assert [row.mean_rank for row in table] == [1.5, 1.75, 2.75]
    assert [row.firsts for row in table] == [1, 1, 0]
    assert {row.blocks for row in table} == {2}
    assert rank_table({0: {"a": 1.0}, 1: {"b": 1.0}}) == []


def test_spearman_of_a_constant_is_unknown():
    assert spearman([1, 1, 1], [1, 2, 3]) is None and spearman([1, 2, 3], [0.5, 0.5, 0.5]) is None


def test_spearman_sees_only_order():
    assert spearman([1, 2, 3, 4], [0.1, 0.2, 0.9, 0.95]) == 1.0
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    assert spearman([1, 2], [1, 2]) is None
    with pytest.raises(ValueError, match="pairs"):
        spearman([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("accuracy", "n"), [(0.9, 2000), (0.7, 300), (0.97, 360)])
def test_two_equal_networks_seldom_differ_by_the_resolution(accuracy, n):
    generator = np.random.default_rng(1)
    a, b = generator.binomial(n, accuracy, (2, 20000)) / n
    beyond = float((abs(a - b) > resolution(accuracy, n)).mean())
    assert 0.02 < beyond < 0.06


def test_the_resolution_shrinks_with_the_images_and_never_vanishes():
    assert resolution(1.0, 100) > 0
    assert resolution(0.9, 400) < resolution(0.9, 100)
    needed = images_needed(0.9, 0.02)
    assert resolution(0.9, needed) == pytest.approx(0.02, rel=0.02)
    assert math.isfinite(images_needed(1.0, 0.01))
