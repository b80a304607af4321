"""What a UR controller's modes mean, and what a person does next."""

from __future__ import annotations

RUNNING, NORMAL, REDUCED, PROTECTIVE = 7, 1, 2, 3

SAFETY = {
    3: "a protective stop: something was hit, or a limit of the safety settings. See what it was, free the arm, then "
    "recover",
    4: "recovery mode: a joint is beyond its limit. Lead the arm back by hand (freedrive) on the pendant, then recover",
    5: "a safeguard stop: a door or a light curtain is open. Close it, then recover",
    6: "the emergency stop of the system is pressed. Release it, power the arm on and release its brakes on the "
    "pendant, then recover",
    7: "the emergency stop is pressed. Release it, power the arm on and release its brakes on the pendant, then "
    "recover",
    8: "a safety violation. Restart the safety on the pendant, then recover",
    9: "a safety fault. Restart the controller; where it comes again, call the service",
}
MODES = {
    -1: "there is no controller behind its port",
    0: "the controller has lost the arm. Look at the cable of the arm, restart the controller",
    1: "the safety settings wait to be confirmed on the pendant",
    2: "it is starting. Wait",
    3: "the arm is switched off. Power it on and release its brakes on the pendant, then recover",
    4: "the arm is being switched on. Wait",
    5: "the brakes are on. Release them on the pendant, then recover",
    6: "it is led by hand (backdrive). End that on the pendant, then recover",
    8: "its software is being updated. Wait",
}


def of_modes(robot_mode: int, safety_mode: int) -> str:
    """Why the arm does not move, and what to do; "" where it may."""
    if safety_mode not in (NORMAL, REDUCED):
        return SAFETY.get(safety_mode, f"its safety mode is {safety_mode}. Look at the pendant")
    if robot_mode != RUNNING:
        return MODES.get(robot_mode, f"its mode is {robot_mode}. Look at the pendant")
    return ""


def of_refusal(said: str, address: str, name: str) -> str:
    """Why there is no connection, in the words of whoever found out, and what to do."""
    if "remote control" in said.lower():
        return (
            f"the {name} at {address} is in local control. Choose remote control on the pendant (top right)."
        )
    if "control script" in said.lower():
        return (
            f"the {name} at {address} takes no script ({said}). Look at the pendant: a protective stop, a message that "
            "nobody has closed, or another program may keep it from running."
        )
    return (
        f"the {name} at {address} cannot be reached ({said}). Is that its address (pendant, Settings, System, "
        "Network), is it switched on, is this machine in its network, and does nobody else hold its RTDE inputs?"
    )
