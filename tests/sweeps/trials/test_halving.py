"""Successive halving: who goes on at each rung, in whatever order trials come to it."""

import math
from itertools import permutations

import pytest

from proteinlm.sweeps.trials.halving import Halving

NAMES = tuple("abcdefghi")
LOSS = {name: 2.0 + 0.1 * place for place, name in enumerate(NAMES)}  # a is best


def make(names: tuple[str, ...] = NAMES, *, keep: float = 1 / 3, asynchronous: bool = False) -> Halving:
    return Halving(dict.fromkeys(names, (10, 30)), keep, asynchronous)


def test_a_rung_is_decided_when_all_have_come_to_it() -> None:
    halving = make()
    assert {halving.next_pause(name) for name in NAMES} == {10}
    for name in reversed(NAMES):
        assert halving.promote() == []
        halving.reached(name, LOSS[name])
    assert halving.promote() == ["a", "b", "c"]
    assert halving.next_pause("a") == 30
    halving.reached("c", 1.0)
    halving.reached("a", 1.5)
    assert halving.promote() == []
    halving.reached("b", 1.2)
    assert halving.promote() == ["c"]
    assert halving.next_pause("c") is None
    assert set(halving.paused()) == set(NAMES) - {"c"}
    assert "2 of 3 at rung 2" in halving.paused()["b"]
    assert "9 of 9 at rung 1" in halving.paused()["i"]


@pytest.mark.parametrize("order", list(permutations("abcd"))[::5])
def test_the_order_of_arrival_changes_nothing(order: tuple[str, ...]) -> None:
    halving = make(tuple("abcd"), keep=0.5)
    for name in order:
        halving.reached(name, LOSS[name])
    assert halving.promote() == ["a", "b"]


def test_asynchronously_the_best_share_so_far_goes_on_at_once() -> None:
    halving = make(asynchronous=True)
    freed = []
    for name in ("d", "e", "f", "a", "b", "c"):
        halving.reached(name, LOSS[name])
        freed.append(halving.promote())
    assert freed == [[], [], ["d"], ["a"], [], ["b"]]  # of 3 the best one, of 4 still one, of 6 the best two


def test_nobody_waits_for_a_failed_trial() -> None:
    halving = make(tuple("abc"))
    halving.reached("b", 2.0)
    halving.end("a")
    assert halving.promote() == []
    halving.end("c")
    assert halving.promote() == ["b"]


def test_a_loss_that_is_no_number_is_last_and_never_goes_on() -> None:
    halving = make(tuple("ab"), keep=0.9)
    halving.reached("a", math.nan)
    halving.reached("b", 9.0)
    assert halving.promote() == ["b"]


def test_it_is_made_again_from_the_losses_of_an_earlier_launch() -> None:
    before = make()
    for name in NAMES:
        before.reached(name, LOSS[name])
    before.promote()
    before.reached("b", 1.0)
    again = make()
    for name in NAMES:
        again.restore(name, [LOSS[name], 1.0 if name == "b" else None], is_finished=False)
    assert again.promote() == ["a", "c"]  # b is known to have gone on
    assert again.next_pause("b") == before.next_pause("b") == 30
    for halving in (before, again):
        halving.reached("a", 3.0)
        halving.reached("c", 2.0)
        assert halving.promote() == ["b"]


def test_a_finished_trial_rests_nowhere() -> None:
    halving = make(tuple("abc"))
    halving.restore("a", [2.0, 1.0], is_finished=True)
    for name in "bc":
        halving.restore(name, [3.0, None], is_finished=False)
    assert halving.promote() == []
    assert set(halving.paused()) == {"b", "c"}
