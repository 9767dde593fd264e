"""A batch: the best, a random share over the survey, and nothing twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zoo_bridge.acquisition.select import select, share_of

IDS = [f"G{number:04d}" for number in range(500)]
BALD = np.random.default_rng(0).uniform(size=500).tolist()


def test_the_best_come_first_and_a_share_is_random() -> None:
    picks = select(IDS, BALD, set(), 100, 0.2, 0)
    assert [pick.rank for pick in picks] == list(range(1, 101))
    best = [pick.index for pick in picks if pick.reason == "bald"]
    drawn = {pick.index for pick in picks if pick.reason == "random"}
    assert (len(best), len(drawn)) == (80, 20)
    rest = sorted(set(range(500)) - drawn, key=lambda place: -BALD[place])
    assert best == rest[:80]


def test_the_random_share_is_of_the_survey_not_of_what_is_left_over() -> None:
    drawn = [p.index for p in select(IDS, BALD, set(), 250, 0.5, 3) if p.reason == "random"]
    # Were it drawn after the best, its mean would be far below one half.
    assert abs(np.mean([BALD[place] for place in drawn]) - 0.5) < 0.08


def test_excluded_objects_never_come_and_order_does_not_matter() -> None:
    out = set(IDS[::2])
    picks = select(IDS, BALD, out, 50, 0.2, 0)
    assert not out & {IDS[pick.index] for pick in picks}
    order = np.random.default_rng(1).permutation(500)
    shuffled = [IDS[place] for place in order]
    again = select(shuffled, [BALD[place] for place in order], out, 50, 0.2, 0)
    assert [IDS[p.index] for p in picks] == [shuffled[p.index] for p in again]


def test_before_a_model_all_are_random() -> None:
    picks = select(IDS, None, set(), 30, 0.2, 0)
    assert len({pick.index for pick in picks}) == 30
    assert {pick.reason for pick in picks} == {"random"}
    other = select(IDS, None, set(), 30, 0.2, 1)
    assert [p.index for p in picks] != [p.index for p in other]


def test_a_small_survey_gives_what_it_has() -> None:
    assert len(select(IDS[:5], BALD[:5], {IDS[0]}, 100, 0.2, 0)) == 4
    assert select([], [], set(), 100, 0.2, 0) == []


@given(st.text(), st.integers(0, 1000))
def test_a_share_belongs_to_its_object_for_ever(name: str, seed: int) -> None:
    assert 0 <= share_of(name, seed, "held out") < 1
    assert share_of(name, seed, "a") == share_of(name, seed, "a")
