from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("mujoco")

from rdt2.errors import ConfigError, TaskError
from rdt2.evaluation.scenes import SCENE_SEEDS_EACH, draw_trials
from rdt2.sim.recording import FIRST_SCENE_SEED


def asked(trials):
    return [trial.task(trial.scene()) for trial in trials]


@pytest.mark.parametrize("episodes", [3, 12, 25])
def test_hands_and_colours_are_balanced(episodes):
    tasks = asked(draw_trials("pick", episodes, seed=4))
    hands = Counter(task.hand for task in tasks)
    colours = Counter(task.colour for task in tasks)
    assert hands["right"] - hands["left"] in (0, 1)
    assert max(colours.values()) - min(colours.values()) <= 2
    if episodes == 12:
        assert len({(task.hand, task.colour) for task in tasks}) == 12


def test_the_same_seed_gives_the_same_trials_and_another_seed_others():
    assert draw_trials("press", 6, seed=1) == draw_trials("press", 6, seed=1)
    one, two = ({trial.seed for trial in draw_trials("press", 6, seed=s)} for s in (1, 2))
    assert not one & two


def test_a_shorter_evaluation_is_the_beginning_of_a_longer_one():
    assert draw_trials("pick", 5, seed=0) == draw_trials("pick", 20, seed=0)[:5]


def test_scene_seeds_never_reach_those_of_training():
    last = FIRST_SCENE_SEED // SCENE_SEEDS_EACH - 1
    assert all(trial.seed < FIRST_SCENE_SEED for trial in draw_trials("pick", 4, seed=last))
    with pytest.raises(ConfigError, match="training scenes"):
        draw_trials("pick", 4, seed=last + 1)
    with pytest.raises(ConfigError):
        draw_trials("pick", 4, seed=-1)


def test_a_swapped_instruction_asks_for_another_hand_or_object_of_the_same_scene():
    plain = draw_trials("place", 8, seed=0)
    other = draw_trials("place", 8, seed=0, swap_instruction=True)
    for a, b in zip(plain, other, strict=True):
        assert a.seed == b.seed
        first, second = a.task(a.scene()), b.task(b.scene())
        assert (first.hand, first.target) != (second.hand, second.target)
        assert second.target in {item.name for item in b.scene().objects}


def test_unknown_task_and_no_episodes_are_refused():
    with pytest.raises(TaskError):
        draw_trials("juggle", 2, seed=0)
    with pytest.raises(ConfigError, match="episodes"):
        draw_trials("pick", 0, seed=0)
