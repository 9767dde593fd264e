"""Diverse batches: what each option promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_bridge.acquisition.diversity import Apart, power_keys, spread
from zoo_bridge.acquisition.select import select

IDS = [f"G{number:04d}" for number in range(2000)]
BALD = np.random.default_rng(0).gamma(2, 0.1, 2000)


def top(keys: np.ndarray, count: int) -> set[int]:
    return set(np.argsort(-keys, kind="stable")[:count].tolist())


def test_powerbald_is_a_draw_that_goes_with_the_information() -> None:
    # With power 1 the first of the sorted is object i with probability I_i / sum I.
    ids, information = ["a", "b", "c"], [0.1, 0.3, 0.6]
    first = [int(np.argmax(power_keys(ids, information, 1.0, seed))) for seed in range(4000)]
    share = np.bincount(first, minlength=3) / 4000
    np.testing.assert_allclose(share, information, atol=0.03)


def test_the_power_leads_from_chance_to_the_top() -> None:
    best = top(BALD, 200)
    shared = [len(best & top(power_keys(IDS, BALD, power, 0), 200)) for power in (0.01, 1, 4, 100)]
    assert shared == sorted(shared)
    assert shared[0] < 40
    assert shared[-1] > 180
    same = power_keys(IDS, BALD, 1.0, 0)
    np.testing.assert_array_equal(same, power_keys(IDS, BALD, 1.0, 0))
    assert top(same, 200) != top(power_keys(IDS, BALD, 1.0, 1), 200)


def test_spreading_over_features_takes_one_of_each_kind_first() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 10, (5, 8))
    kind = np.repeat(np.arange(5), 40)
    features = centres[kind] + rng.normal(0, 0.1, (200, 8))
    information = rng.uniform(0.5, 1, 200)
    # One kind is the most informative by far: the plain top five are all of it.
    information[kind == 3] += 1
    assert set(kind[np.argsort(-information)[:5]]) == {3}
    chosen = spread(features, information, 5)
    assert set(kind[chosen]) == set(range(5))
    assert chosen[0] == int(np.argmax(information))


def test_copies_are_not_taken_while_there_is_anything_else() -> None:
    features = np.repeat(np.eye(4), 10, axis=0)
    information = np.linspace(1, 2, 40)
    chosen = spread(features, information, 40)
    assert sorted(chosen) == list(range(40))
    assert sorted(place // 10 for place in chosen[:4]) == [0, 1, 2, 3]
    assert spread(np.zeros((3, 2)), np.array([0.1, 0.3, 0.2]), 2) == [1, 2]
    assert spread(np.zeros((0, 2)), np.zeros(0), 5) == []


@given(st.floats(0, 360), st.floats(-89.9, 89.9), st.floats(0.1, 100))
def test_neighbours_are_told_by_their_distance_on_the_sky(
    ra: float, dec: float, arcsec: float
) -> None:
    step = arcsec / 3600
    apart = Apart(
        np.array([ra, ra, ra, np.nan]),
        np.array([dec, dec + 0.9 * step / 2, dec + 1.2 * step / 2, np.nan]),
        arcsec / 2,
    )
    assert [apart.take(place) for place in (0, 1, 2, 3)] == [True, False, True, True]


def test_what_lies_next_to_a_better_one_is_left_out_but_not_from_the_random_share() -> None:
    ra = np.repeat(np.arange(1000) / 10, 2)
    ra[1::2] += 1 / 3600
    keys = np.arange(2000, 0, -1)
    apart = Apart(ra, np.zeros(2000), 2.0)
    picks = select(IDS, keys.tolist(), set(), 400, 0.25, 0, apart)
    best = [pick.index for pick in picks if pick.reason == "bald"]
    drawn = [pick.index for pick in picks if pick.reason == "random"]
    assert (len(best), len(drawn)) == (300, 100)
    assert len({place // 2 for place in best}) == 300
    plain = [p.index for p in select(IDS, keys.tolist(), set(), 400, 0.25, 0)]
    assert drawn == plain[-100:]


def test_an_object_that_has_no_key_is_not_the_best_of_any() -> None:
    keys = [1.0, -np.inf, 0.5]
    picks = select(IDS[:3], keys, set(), 3, 0.0, 0)
    assert [pick.index for pick in picks] == [0, 2]


def test_power_must_not_make_zero_information_a_number_that_is_none() -> None:
    assert np.isfinite(power_keys(IDS[:3], [0.0, 1e-300, 1.0], 2.0, 0)).all()


@pytest.mark.parametrize("count", [0, 1, 7])
def test_never_more_than_asked_for(count: int) -> None:
    assert len(spread(np.random.default_rng(0).normal(size=(5, 3)), BALD[:5], count)) == min(
        count, 5
    )
