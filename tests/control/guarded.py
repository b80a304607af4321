"""Two arms under a guard without a cell, and what an onlooker who trusts nothing measures of their commands."""

from __future__ import annotations

from copy import copy
from functools import cache

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.control.bodies import ArmBody, cross_pairs, distances, self_pairs
from rdt2.control.geometry import jacobian
from rdt2.control.guard import Guard
from rdt2.robot.braking import Brake
from rdt2.robot.grippers import GRIPPERS
from rdt2.robot.kinematics import LIMIT_MARGIN, arm_kinematics
from rdt2.robot.models import arm_model, base_pose, mount_in_flange
from rdt2.robot.settings import Bounds, RobotSettings
from rdt2.sim.gripper import tcp_rotation

PERIOD = 0.008
SIDES = ("right", "left")


TOOL = np.eye(4)
TOOL[2, 3] = 0.20
POLICY_TO_TCP = np.eye(4)
POLICY_TO_TCP[:3, 3] = 0.055, 0.0, -0.14
CALM = Bounds(
    low=(-0.45, -0.60, -0.10), high=(0.45, 0.60, 0.70), speed=1.5, acceleration=12, jerk=400,
    turn_rate=4, turn_acceleration=40, turn_jerk=1500,
)  # fmt: skip
TABLE = -0.02
SAFETY = {
    "table_height": TABLE, "table_clearance": 0.005, "arm_clearance": 0.02, "slow_within": 0.08, "joint_margin": 0.05,
    "singularity_slow": 0.06, "singularity_stop": 0.02, "max_age": 0.1,
}  # fmt: skip


def settings(model="ur5e", sides=SIDES, bounds=CALM, *, obstacles=None, **arm):
    """The cell's robot of a kind, with limits and a TCP that these tests know."""
    whole = RobotSettings.read(f"cell_{model}").model_dump()
    changes = {"bounds": bounds.model_dump(), **arm}
    arms = {side: {**whole["arms"][side], **changes} for side in sides}
    if model != "handheld":
        for side in sides:
            arms[side]["tool"] = mount_in_flange(model, side) @ TOOL
    safety = {**whole["safety"], **SAFETY, "obstacles": obstacles or {}}
    return RobotSettings.model_validate({**whole, "arms": arms, "safety": safety})


@cache
def body_of(model, side):
    """The shape of an arm of the cell, or of a hand, by its TCP at `TOOL`."""
    known = model != "handheld"
    return ArmBody(
        arm_model(model) if known else None,
        base=base_pose(model, side) if known else np.eye(4),
        gripper=GRIPPERS["cell"],
        mount=mount_in_flange(model, side) if known else np.eye(4),
        tool=TOOL,
    )


_KINEMATICS: dict = {}


def kinematics(model, side):
    if (model, side) not in _KINEMATICS:
        _KINEMATICS[model, side] = arm_kinematics(model, side, tool=TOOL)
    return _KINEMATICS[model, side]


def down(side, x, y, z, *, lean=0.0, yaw=0.0, pitch=0.0):
    pose = np.eye(4)
    inward = 1.0 if side == "right" else -1.0
    pose[:3, :3] = Rotation.from_euler("xy", [inward * lean, pitch]).as_matrix() @ tcp_rotation(side, yaw=yaw)
    pose[:3, 3] = x, y, z
    return pose


def waiting(side):
    return down(side, 0.0, -0.30 if side == "right" else 0.30, 0.26, lean=0.2)


def guarded(model="ur5e", poses=None, *, sides=SIDES, bounds=CALM, obstacles=None):
    """A guard that stands at `poses` (default: where hands wait)."""
    poses = poses or {side: waiting(side) for side in sides}
    known = model != "handheld"
    guard = Guard(
        settings(model, sides, bounds, obstacles=obstacles),
        {s: kinematics(model, s) if known else None for s in sides},
        period=PERIOD,
    )
    guard.start(poses, {s: joints_at(model, s, poses[s]) for s in sides}, dict.fromkeys(sides, 0.08))
    return guard, poses


def joints_at(model, side, pose):
    """Joints that put the TCP at a pose; none of a hand."""
    return np.zeros(0) if model == "handheld" else kinematics(model, side).solve(pose)


def norms(poses):
    """Largest speed, acceleration, jerk of a stream of poses, then of turning: finite differences, nothing else."""
    poses = np.stack(poses)
    moved = np.diff(poses[:, :3, 3], axis=0) / PERIOD
    turned = (
        Rotation.from_matrix(poses[1:, :3, :3] @ poses[:-1, :3, :3].transpose(0, 2, 1)).as_rotvec() / PERIOD
    )
    return [
        float(np.linalg.norm(np.diff(values, n, axis=0) / PERIOD**n, axis=1).max(initial=0.0))
        for values in (moved, turned)
        for n in (0, 1, 2)
    ]


@cache
def two_arms(model):
    """Both arms with grippers as MuJoCo geoms."""
    from rdt2.sim.arms import add_arm
    from rdt2.sim.gripper import gripper_spec

    spec = mujoco.MjSpec()
    for side in SIDES:
        spec.attach(gripper_spec(), prefix=f"{side}/", site=add_arm(spec, model, side))
    compiled = spec.compile()
    return compiled, mujoco.MjData(compiled)


def place(compiled, data, side, model, joints, width):
    for link, angle in zip(arm_model(model).links, joints, strict=True):
        data.qpos[compiled.joint(f"{side}/{link.name}").qposadr[0]] = angle
    for finger in "ab":
        data.qpos[compiled.joint(f"{side}/finger_{finger}").qposadr[0]] = width / 2


def geoms(compiled, side):
    return [
        i
        for i in range(compiled.ngeom)
        if compiled.body(int(compiled.geom_bodyid[i])).name.startswith(f"{side}/")
    ]


class Onlooker:
    """Follows commanded poses with joints of its own, and says how near everything came, at ticks and between."""

    def __init__(self, sides, model, poses, joints=None):
        self.known = model != "handheld"
        self.poses = {side: [poses[side]] for side in sides}
        joints = joints or {side: joints_at(model, side, poses[side]) for side in sides}
        self.joints = {side: [joints[side]] for side in sides}
        self.twists = {side: [np.zeros(6)] for side in sides}
        self.widths = {side: [(0.08, 0.08)] for side in sides}
        self.kinematics = {side: kinematics(model, side) if self.known else None for side in sides}
        self.bodies = {side: body_of(model, side) for side in sides}

    def look(self, commanded, measured=None):
        """`measured`: openings that a gripper reports, by side."""
        for side, pose in commanded.poses.items():
            self.poses[side].append(pose)
            self.twists[side].append(commanded.velocity[side])
            width = commanded.widths[side]
            self.widths[side].append((width, measured[side] if measured else width))
            if self.known:
                joints, *_ = self.kinematics[side].step(self.joints[side][-1], pose, dt=PERIOD)
                self.joints[side].append(joints)

    def stopped(self, bounds):
        """Where all devices come to rest that are stopped at a tick, each on its own ramp: an onlooker that sees the
        end of each of these, as joints extrapolated where there are any."""
        seen = copy(self)
        seen.poses, seen.joints = {}, {}
        for side, twists in self.twists.items():
            ways = []
            for twist in twists:
                speed, turn = np.linalg.norm(twist.reshape(2, 3), axis=1)
                brake = Brake.of(
                    0.0,
                    (speed, bounds.acceleration, bounds.jerk),
                    (turn, bounds.turn_acceleration, bounds.turn_jerk),
                )
                ways.append([brake.way(brake.ends)])
            if self.known:
                joints = np.stack(self.joints[side])
                rates = np.diff(joints, axis=0, prepend=joints[:1]) / PERIOD
                seen.joints[side] = list(joints + ways * rates)
                seen.poses[side] = [self.kinematics[side].forward(each) for each in seen.joints[side]]
            else:
                moved, poses = ways * np.stack(twists), np.stack(self.poses[side])
                poses[:, :3, 3] += moved[:, :3]
                poses[:, :3, :3] = Rotation.from_rotvec(moved[:, 3:]).as_matrix() @ poses[:, :3, :3]
                seen.poses[side] = list(poses)
        return seen

    def postures(self, side):
        """Of an arm with joints, at every tick: metres and radians that it is off its command, what is left of its
        joints' margins (radians), and how far from singular it is."""
        known, poses, joints = self.kinematics[side], np.stack(self.poses[side]), np.stack(self.joints[side])
        frames = self.bodies[side].frames(joints, poses, np.array(self.widths[side]))
        reached = self.bodies[side].tcp(frames)
        off = np.linalg.norm(reached[:, :3, 3] - poses[:, :3, 3], axis=1)
        turned = Rotation.from_matrix(reached[:, :3, :3].transpose(0, 2, 1) @ poses[:, :3, :3]).magnitude()
        margin = SAFETY["joint_margin"] - LIMIT_MARGIN
        left = np.minimum(joints - known.lower, known.upper - joints).min(axis=1) - margin
        singular = np.linalg.svd(jacobian(self.bodies[side].arrays, frames), compute_uv=False)[:, -1]
        return off, turned, left, singular

    def limits(self, bounds):
        """Largest share of each limit that was used: speed, acceleration, jerk, and of turning."""
        most = [
            bounds.speed, bounds.acceleration, bounds.jerk,
            bounds.turn_rate, bounds.turn_acceleration, bounds.turn_jerk,
        ]  # fmt: skip
        # what stands still before the first command counts
        streams = [[poses[0]] * 3 + poses for poses in self.poses.values()]
        return np.max([np.divide(norms(stream), most) for stream in streams], axis=0)

    def outside(self, bounds):
        """Metres outside the workspace, (arms, ticks)."""
        places = np.stack([np.stack(poses)[:, :3, 3] for poses in self.poses.values()])
        return np.maximum(bounds.low - places, places - bounds.high).max(axis=2)

    def shapes(self):
        """Everything at every tick and half way between: segments and lowest points by side."""
        result = {}
        for side, body in self.bodies.items():
            poses = np.stack(self.poses[side])
            joints = _halves(np.stack(self.joints[side])) if self.known else np.zeros((len(poses), 0))
            between = poses[:-1].copy()
            between[:, :3, 3] = 0.5 * (poses[:-1, :3, 3] + poses[1:, :3, 3])
            every = np.empty((2 * len(poses) - 1, 4, 4))
            every[::2], every[1::2] = poses, between
            frames = body.frames(joints, every, _halves(np.array(self.widths[side])))
            segments = body.segments(frames)
            result[side] = segments, body.lowest(frames, segments)
        return result

    def gaps(self, shapes):
        """Metres between both arms, and between parts of each, at every look."""
        home = {side: self.kinematics[side].home if self.known else None for side in self.bodies}
        found = {
            side: distances(shapes[side][0], shapes[side][0], body, body, self_pairs(body, home[side]))
            for side, body in self.bodies.items()
        }
        if len(self.bodies) == 2:
            one, other = (self.bodies[side] for side in SIDES)
            found["both"] = distances(
                shapes["right"][0], shapes["left"][0], one, other, cross_pairs(one, other)
            )
        return {key: gaps.min(axis=1, initial=np.inf) for key, gaps in found.items()}

    def off(self, side, box):
        """Metres from all that moves of an arm to a box, at every look: of points along each capsule."""
        body, (segments, _) = self.bodies[side], self.shapes()[side]
        share = np.linspace(0, 1, 31)[:, None, None, None]
        points = segments[0] + share * (segments[1] - segments[0]) - box["centre"]
        points = points @ Rotation.from_euler("z", box.get("turn", 0.0), degrees=True).as_matrix()
        over = np.abs(points) - 0.5 * np.array(box["size"])
        away = np.linalg.norm(np.maximum(over, 0), axis=-1) + np.minimum(over.max(axis=-1), 0)
        return (away.min(axis=0) - body.radius)[:, body.moves].min(axis=1)

    def solid_gap(self, model, tick):
        """Metres (at most 0.1) between the solids of both arms at a tick, as MuJoCo measures them."""
        compiled, data = two_arms(model)
        for side in SIDES:
            place(compiled, data, side, model, self.joints[side][tick], max(self.widths[side][tick]))
        mujoco.mj_forward(compiled, data)
        right, left = (geoms(compiled, side) for side in SIDES)
        return min(mujoco.mj_geomDistance(compiled, data, a, b, 0.1, None) for a in right for b in left)


def _halves(values):
    every = np.empty((2 * len(values) - 1, *values.shape[1:]))
    every[::2], every[1::2] = values, 0.5 * (values[:-1] + values[1:])
    return every
