"""The space that an arm fills: capsules of its links, palm, fingers and camera, and how far they are from each other.

A capsule is a segment with a radius. Capsules enclose the solids of an arm's own description, so that their distance is
never more than that of the real parts. Against planes, where millimetres count, the gripper's corners are used instead.
Everything is computed for many postures at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from rdt2.control import gaps, geometry
from rdt2.errors import SafetyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float, Int
    from numpy import ndarray

    from rdt2.robot.description import ArmModel, GripperModel, Part, Shape

PEDESTAL = ((0.0, 0.0, -0.70), (0.0, 0.0, -0.05), 0.09)
"""What an arm stands on: start, end (base frame) and radius, metres. Whatever it is bolted to lies behind its base."""
HOLDER = ((0.0, 0.0, -0.20), (0.0, 0.0, -0.03), 0.05)
"""What carries a gripper whose arm is not known, in the gripper's frame: a wrist and a piece of a forearm."""
CYLINDER_GROWTH, BOX_GROWTH = 1.05, 1.12
"""A capsule a little wider than what it encloses may be much shorter."""
CONTAINED = 1.06
"""A capsule that fits into another grown by so much is left out."""
SELF_CLEARANCE = 0.005
"""Metres that parts of one arm keep from each other."""
OPENINGS = 2
"""A gripper is where it was commanded and where it was measured, both at once: its fingers are on the way between."""
JOINED = 0.03
"""Parts with one link between them that are nearer in the home posture than this (metres) belong together."""


@dataclass(frozen=True)
class _Capsule:
    start: ndarray
    end: ndarray
    radius: float
    frame: int


class ArmBody:
    """The shapes of one arm with its gripper, and the kinematics that moves them, for many postures at once.

    Frames are those of the base, of every link, of the gripper and of its two fingers at each of `OPENINGS` openings.
    An arm whose model is not known (a handheld gripper) has those of the gripper and the fingers only, and behind the
    gripper a capsule (`HOLDER`) for whatever carries it: nothing is known of what is further behind.

    Args:
        model: description of the arm, or None.
        base: (4, 4) base in the cell frame, metres.
        gripper: its description.
        mount: (4, 4) the gripper's frame in the arm's flange; not read without a model.
        tool: (4, 4) TCP in the frame of the gripper.
    """

    def __init__(
        self,
        model: ArmModel | None,
        *,
        base: Float[ndarray, "4 4"],
        gripper: GripperModel,
        mount: Float[ndarray, "4 4"],
        tool: Float[ndarray, "4 4"],
    ) -> None:
        self.links = len(model.links) if model else 0
        """Joints; 0 without a model."""
        self.together = model.together if model else ()
        to_gripper = np.linalg.inv(tool)
        palm = self.links + 1 if model else 0
        capsules: list[_Capsule] = []
        if model:
            capsules += _of_shapes(model.base_shapes, 0)
            capsules.append(_capsule(*PEDESTAL, 0))
            for i, link in enumerate(model.links):
                capsules += _of_shapes(link.shapes, i + 1)
        else:
            capsules.append(_capsule(*HOLDER, palm))
        capsules += _of_parts(gripper.palm, palm)
        for k in range(2 * OPENINGS):
            capsules += _of_parts(gripper.fingers[k % 2], palm + 1 + k)
        ends = np.array([[c.start for c in capsules], [c.end for c in capsules]])
        self.radius = np.array([c.radius for c in capsules])
        self.frame = np.array([c.frame for c in capsules])
        self.order = np.minimum(self.frame, self.links if model else 0)
        """Of the body that carries each capsule: neighbours along the arm differ by one."""
        self.gripper = palm
        self.arrays = (*_chain(model, mount), *_contiguous(base, tool, to_gripper), float(gripper.finger_z))
        """What `geometry` computes with."""
        corners = [_hull(parts) for parts in (gripper.palm, *gripper.fingers)]
        self.tip: ndarray = to_gripper[:3, 3] + to_gripper[:3, 2] * (
            gripper.finger_z + corners[1][:, 2].max()
        )
        """Between the ends of the fingers, in the TCP's frame, metres."""
        self.moves = self.frame > 0 if model else np.ones(len(self.frame), dtype=bool)
        """Of each capsule: all but those of the base."""
        carrying = self.moves & (self.frame < palm) if model else np.arange(len(self.frame)) == 0
        self.shapes = (ends, self.frame, self.radius, np.flatnonzero(carrying), *corners)
        """As `arrays`."""

    def __len__(self) -> int:
        return len(self.radius)

    def frames(
        self, joints: Float[ndarray, "s n"], poses: Float[ndarray, "s 4 4"], widths: Float[ndarray, "#s o"]
    ) -> Float[ndarray, "s f 4 4"]:
        """All frames in the cell frame: from the joints (rad) where the model is known, else from the TCP's pose.

        `widths` are the gripper's openings in metres, `OPENINGS` of them.

        Raises:
            SafetyError: arrays of other shapes, which compiled code would read past their ends.
        """
        joints, poses, widths = (np.asarray(each, dtype=np.float64) for each in (joints, poses, widths))
        count = len(joints) if self.links else len(poses)
        if (self.links and joints.shape != (count, self.links)) or (
            widths.shape not in {(1, OPENINGS), (count, OPENINGS)}
        ):
            raise SafetyError(
                f"joints of shape {joints.shape} with openings of shape {widths.shape}, expected (s, {self.links}) and "
                f"(s, {OPENINGS}) or (1, {OPENINGS})."
            )
        return geometry.frames(self.arrays, joints, poses, widths)

    def tcp(self, frames: Float[ndarray, "s f 4 4"]) -> Float[ndarray, "s 4 4"]:
        """TCP in the cell frame."""
        return geometry.tcp(self.arrays, frames)

    def segments(self, frames: Float[ndarray, "s f 4 4"]) -> Float[ndarray, "2 s c 3"]:
        """Starts and ends of all capsules in the cell frame, metres."""
        return geometry.segments(self.shapes, frames)

    def lowest(
        self, frames: Float[ndarray, "s f 4 4"], segments: Float[ndarray, "2 s c 3"]
    ) -> Float[ndarray, "s 2"]:
        """Heights in the cell frame (metres) of the gripper's lowest corner, and of the lowest moving link or what
        carries the gripper; infinity where there is none."""
        return geometry.lowest(self.arrays, self.shapes, frames, segments)

    def hang(self, rotations: Float[ndarray, "n 3 3"], widths: Float[ndarray, " o"]) -> Float[ndarray, " n"]:
        """How far (metres) the gripper's lowest corner is below its TCP, turned so, at the worst of some openings."""
        rotations, widths = np.asarray(rotations, dtype=np.float64), np.asarray(widths, dtype=np.float64)
        return geometry.hang(self.arrays, self.shapes, rotations, widths)


def cross_pairs(first: ArmBody, second: ArmBody) -> Int[ndarray, "2 p"]:
    """Capsules of two arms that may meet: all but those that stand fast on both sides."""
    a, b = np.meshgrid(np.arange(len(first)), np.arange(len(second)), indexing="ij")
    may = first.moves[a] | second.moves[b]
    return np.stack([a[may], b[may]])


def self_pairs(body: ArmBody, home: Sequence[float] | None) -> Int[ndarray, "2 p"]:
    """Capsules of one arm that may meet: not of neighbours, nor of what its joints' limits keep apart, nor of what sits
    next but one and close by in the `home` posture (rad), as the parts of a wrist do."""
    a, b = np.triu_indices(len(body), 1)
    for first, second in body.together:
        free = (body.frame[a] != first) | (body.frame[b] != second)
        a, b = a[free], b[free]
    steps = np.abs(body.order[a] - body.order[b])
    pairs, steps = np.stack([a, b])[:, steps > 1], steps[steps > 1]
    if home is None:
        return pairs
    frames = body.frames(np.asarray(home, dtype=np.float64)[None], np.eye(4)[None], np.zeros((1, OPENINGS)))
    segments = body.segments(frames)
    apart = distances(segments, segments, body, body, pairs)[0]
    return pairs[:, (steps > 2) | (apart > JOINED)]


def distances(
    first: Float[ndarray, "2 s c 3"], second: Float[ndarray, "2 s d 3"],
    one: ArmBody, other: ArmBody, pairs: Int[ndarray, "2 p"],
) -> Float[ndarray, "s p"]:  # fmt: skip
    """Metres between the capsules of `pairs`, at each posture; negative where they overlap."""
    return gaps.distances(first, second, solids(one.radius, other.radius), pairs)


def solids(
    one: Float[ndarray, " c"],
    other: Float[ndarray, " d"],
    boxes: tuple[ndarray, ndarray, ndarray] | None = None,
) -> tuple[ndarray, ...]:
    """What `gaps` needs to know of parts that may meet: radii (metres), or the `boxes` that the others are."""
    return one, other, *(boxes or (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3, 3))))


def _chain(model: ArmModel | None, mount: Float[ndarray, "4 4"]) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Each link in its parent as fixed + cos(q) * by_cos + sin(q) * by_sin, and the gripper in the last."""
    links = model.links if model else ()
    fixed, by_cos, by_sin = np.zeros((3, len(links), 4, 4))
    for i, link in enumerate(links):
        place = np.eye(4)
        place[:3, :3] = Rotation.from_euler("x", link.tilt).as_matrix()
        place[:3, 3] = link.position
        fixed[i] = place @ np.diag([0.0, 0.0, 1.0, 1.0])
        by_cos[i] = place @ np.diag([1.0, 1.0, 0.0, 0.0])
        by_sin[i, :, 0], by_sin[i, :, 1] = place[:, 1], -place[:, 0]
    flange = np.eye(4)
    flange[2, 3] = model.flange if model else 0.0
    return fixed, by_cos, by_sin, flange @ mount if model else flange


def _contiguous(*arrays: ndarray) -> list[ndarray]:
    return [np.array(array, dtype=np.float64, order="C") for array in arrays]


def _capsule(start: Iterable[float], end: Iterable[float], radius: float, frame: int) -> _Capsule:
    return _Capsule(np.array(tuple(start), float), np.array(tuple(end), float), float(radius), frame)


def _enclosing(start: ndarray, end: ndarray, radius: float, growth: float, frame: int) -> _Capsule:
    """Around a solid with flat ends, `radius` wide: wider by `growth`, and the shorter for it."""
    grown = growth * radius
    middle, half = (start + end) / 2, (end - start) / 2
    length = float(np.linalg.norm(half))
    short = float(np.sqrt(grown**2 - radius**2))
    if length <= short:
        return _Capsule(middle, middle, float(np.hypot(radius, length)), frame)
    half = half * (1 - short / length)
    return _Capsule(middle - half, middle + half, grown, frame)


def _of_shapes(shapes: Iterable[Shape], frame: int) -> list[_Capsule]:
    """Capsules of a link: pieces that continue each other become one."""
    joined: list[tuple[ndarray, ndarray, float, str]] = []
    for shape in shapes:
        start, end = np.array(shape.start, float), np.array(shape.end, float)
        if joined and shape.kind == joined[-1][3] == "cylinder":
            first, last, radius, _ = joined[-1]
            straight = (
                np.linalg.norm(np.cross(last - first, end - start)) < 1e-9 < (last - first) @ (end - start)
            )
            if straight and np.allclose(start, last) and 0.8 < shape.radius / radius < 1.25:
                joined[-1] = (first, end, max(radius, shape.radius), "cylinder")
                continue
        joined.append((start, end, shape.radius, shape.kind))
    return _needed([
        _enclosing(start, end, radius, CYLINDER_GROWTH, frame) if kind == "cylinder"
        else _Capsule(start, end, radius, frame)
        for start, end, radius, kind in joined
    ])  # fmt: skip


def _of_parts(parts: Iterable[Part], frame: int) -> list[_Capsule]:
    """A capsule along the longest axis of each part's box."""
    capsules = []
    for part in parts:
        half = np.array(part.half_box)
        axis = int(np.argmax(half))
        turn = Rotation.from_euler("y", part.tilt).as_matrix()
        along = turn[:, axis] * half[axis]
        middle = np.array(part.position, float)
        capsules.append(
            _enclosing(
                middle - along,
                middle + along,
                float(np.linalg.norm(np.delete(half, axis))),
                BOX_GROWTH,
                frame,
            )
        )
    return _needed(capsules)


def _needed(capsules: list[_Capsule]) -> list[_Capsule]:
    """Without those that another one, grown a little, holds."""
    kept: list[_Capsule] = []
    for capsule in sorted(capsules, key=lambda c: -np.linalg.norm(c.end - c.start) - c.radius):
        for k, other in enumerate(kept):
            reach = capsule.radius + max(
                gaps.segment_distance(end, end, other.start, other.end)
                for end in (capsule.start, capsule.end)
            )
            if reach <= CONTAINED * other.radius:
                kept[k] = _Capsule(other.start, other.end, max(other.radius, reach), other.frame)
                break
        else:
            kept.append(capsule)
    return kept


def _hull(parts: Iterable[Part]) -> Float[ndarray, "n 3"]:
    """The corners of parts that no plane can miss."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    corners = np.concatenate([
        signs * part.half_box @ Rotation.from_euler("y", part.tilt).as_matrix().T + part.position for part in parts
    ])  # fmt: skip
    return corners[ConvexHull(corners).vertices]
