"""What stops a Franka, in words, and what to do."""

from __future__ import annotations

from typing import Any

MODES = {
    "UserStopped": "the user stop is pressed (the robot's light is white): see that nothing is in the way, release it, "
    "then recover",
    "Guiding": "it is being guided by hand: let go of the buttons at its wrist",
    "Other": "its brakes are locked or its interface is off: unlock the joints and activate FCI in Desk",
    "AutomaticErrorRecovery": "it is recovering: wait a moment",
}
"""Of robot modes in which it takes no command, and which no program may end."""
ERRORS = {
    "joint_reflex": "a joint met more torque than torque_threshold allows: see what it touches, free it, then recover",
    "cartesian_reflex": "the hand met more force than force_threshold allows: see what it touches, free it, then "
    "recover",
    "communication_constraints_violation": "packets came late for 20 ms: give its loop a real-time kernel and a cable "
    "of its own, or run `rdt2 robot serve` on a small machine beside it",
    "joint_position_limits_violation": "a joint is beyond its limit: guide it back by hand, then recover",
    "joint_velocity_violation": "a joint was too fast: lower arms.SIDE.bounds, then recover",
    "cartesian_velocity_violation": "the hand was too fast: lower arms.SIDE.bounds, then recover",
    "self_collision_avoidance_violation": "two of its own links came too near: guide it apart by hand, then recover",
    "power_limit_violation": "it needed too much power: lower arms.SIDE.bounds, or the payload, then recover",
    "tau_j_range_violation": "a joint met more torque than it measures: see what it touches, free it, then recover",
    "controller_torque_discontinuity": "the torques it was told jumped: lower stiffness, then recover",
    "instability_detected": "it swung: look at payload and stiffness, then recover",
}


def of_mode(state: Any, *, recoverable: bool = False) -> str:
    """Why a robot in this state takes no command, and what to do; empty where it does.

    Args:
        state: franky's.
        recoverable: leave out what its recovery clears (a reflex).
    """
    mode = state.robot_mode.name
    if mode in MODES:
        return MODES[mode]
    names = errors_of(state.current_errors)
    if recoverable or (mode != "Reflex" and not names):
        return ""
    told = "; ".join(ERRORS.get(name, f"{name.replace('_', ' ')}: recover when it is safe") for name in names)
    return f"reflex: {told or 'see what it touches, then recover'}"


def errors_of(errors: Any) -> list[str]:
    """Names of the errors that are set."""
    return [name for name in dir(errors) if not name.startswith("_") and getattr(errors, name) is True]


def of_refusal(error: BaseException) -> str:
    """What franky raised, with what to do where that is known."""
    text = str(error).removeprefix("libfranka: ").strip().splitlines()
    told = text[0] if text else type(error).__name__
    kind = type(error).__name__
    if kind == "RealtimeException":
        return (
            f"{told} This machine has no real-time kernel, or this user no real-time priority. Use `rdt2 robot serve` "
            "on a machine that has, or try without one: realtime: false"
        )
    if kind == "IncompatibleVersionException":
        return f"{told} Install the franky wheel for that server version: see franky's documentation, installation"
    if "activated safety function" in told:
        return f"{told} {MODES['UserStopped']}"
    for name, words in ERRORS.items():
        if name in told:
            return f"{told} {words}"
    if kind == "NetworkException" or told == "Net Exception":
        return f"{told}. Look at its cable and its power, then recover"
    return told
