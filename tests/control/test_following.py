"""What an arm was commanded for the moment of its state."""

from __future__ import annotations

import numpy as np
from fake_robot import fake_settings

from rdt2.control.following import Commands


def at(x):
    pose = np.eye(4)
    pose[0, 3] = x
    return pose


def test_commands_of_the_moment_are_meant_and_no_others():
    arm = fake_settings({"arms.left.latency": 0.1}).arms["left"]
    commands = Commands(arm, max_age=0.25)
    commands.start(at(-1.0))
    for k in range(200):
        commands.note(0.008 * k, at(0.008 * k))
    for stamp in (1.34, 1.5, 1.55):
        meant = commands.meant(stamp)[:, 0, 3]
        assert abs(meant - (stamp - 0.1)).max() <= 0.0211
        assert len(meant) >= 4
    assert commands.meant(9.0)[:, 0, 3].tolist() == [0.008 * 199], "it stays where it was commanded last"
    assert len(commands.meant(0.0)) == 1, "long forgotten"


def test_before_the_first_command_an_arm_is_where_it_was():
    commands = Commands(fake_settings().arms["left"], max_age=0.25)
    commands.start(at(-1.0))
    commands.note(5.0, at(0.0))
    assert commands.meant(4.9)[:, 0, 3].tolist() == [-1.0]
    assert commands.meant(5.5)[:, 0, 3].tolist() == [0.0]
