"""The simulated cell: one table, two grippers with wrist cameras, carried by hands, two UR5e, or two FR3.

    cell = Cell("ur5e", make_scene("pick", seed=3))
    robot = cell.robot()
    soon = robot.clock.now() + 0.05
    robot.execute([soon], {"left": [pose]}, {"left": [0.04]})
    robot.clock.sleep_until(soon)                         # this is what runs the physics
    picture = robot.cameras["left"].read().image

World frame: z up, origin at the table's centre on the nominal table top (a scene may move the table by up to
3 cm), x forward, y left. The right hand waits at y < 0, the left at y > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS
from rdt2.errors import ConfigError, SimulationError, TaskError
from rdt2.registry import MODULE, did_you_mean
from rdt2.robot.models import ARM_MODELS, arm_model
from rdt2.robot.robot import Robot
from rdt2.robot.world import ArmWorld, CellSettings
from rdt2.sim import render
from rdt2.sim.building import add_room, add_tubes, build_scene
from rdt2.sim.camera import CellCamera
from rdt2.sim.collisions import Collision, CollisionWatch
from rdt2.sim.gripper import GripperController, gripper_spec, tcp_rotation
from rdt2.sim.handheld import HandheldArm, Mover, site_pose
from rdt2.sim.scene import Scene, Start

if TYPE_CHECKING:
    import mujoco
    from jaxtyping import Float, UInt8
    from numpy import ndarray

    from rdt2.robot.settings import RobotSettings

EMBODIMENTS = ("handheld", *ARM_MODELS)
"""What carries the grippers: people's hands, or two arms of a kind that is described in `rdt2.robot.models`. An arm of
any module, `my_module:MY_ARM`, does as well."""
WRIST_SIZE = (384, 384)
WATCHED = 4
"""Steps of the physics between two looks for collisions: 8 ms, as the servo's."""
_SHIFTED, _TURNED = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]) / np.sqrt(2)
"""Where to a tool that is off is shifted, and about what it is turned, along the fingertips' axes."""
ACROSS = 0.7
"""Cosine to the way the jaws open, of a push between a finger and what it holds."""
FRONT_SIZE = (640, 480)


@dataclass(frozen=True)
class Names:
    """Names in the compiled model, by side."""

    tcp: dict[str, str]
    """What the arm's controller, or a hand's path, speaks of."""
    fingertips: dict[str, str]
    """Between them, z towards what they reach for, y the way they open."""
    policy: dict[str, str]
    camera: dict[str, str]
    gripper: dict[str, str]
    """Body of the gripper; all its parts are in this body's subtree."""


def start_pose(side: str, start: Start) -> Float[ndarray, "4 4"]:
    """Fingertips in the cell frame where a hand waits."""
    inward = 1.0 if side == "right" else -1.0
    # leaning about the world's x moves the fingertips towards the middle relative to the wrist
    tilt = Rotation.from_euler("xy", [inward * start.lean, start.pitch]).as_matrix()
    pose = np.eye(4)
    pose[:3, :3] = tilt @ tcp_rotation(side, yaw=start.yaw)
    pose[:3, 3] = start.position
    return pose


def cell_settings(robot: str) -> RobotSettings:
    """Settings of a simulated robot: "ur5e" for what comes with the package as cell_ur5e, or a yaml's path.

    Raises:
        ConfigError: there is no such robot, or it is no simulated one.
    """
    from rdt2.robot.reading import CONFIGS, shipped
    from rdt2.robot.settings import RobotSettings

    if robot in EMBODIMENTS and f"cell_{robot}" not in shipped():  # an arm that somebody has added
        arm_model(robot)  # a mistake in its file comes first
        raise ConfigError(
            f"the arm {robot!r} is described, but no robot of the cell has two of them. Copy cell_ur5e.yaml in "
            f"{CONFIGS} to cell_{robot}.yaml, and change in it the name, and each arm's model and base; also tool, "
            "policy_to_tcp and gripper.mount where the description's tcp or mount_yaw is not that of the UR5e."
        )
    settings = RobotSettings.read(f"cell_{robot}" if robot in EMBODIMENTS else robot)
    if settings.kind != "cell":
        raise ConfigError(
            f"robot {settings.name!r} is of kind {settings.kind}, expected a simulated one: kind: cell."
        )
    return settings


def embodiment_of(settings: RobotSettings) -> str:
    """What carries the grippers of a simulated robot: one of `EMBODIMENTS`.

    Raises:
        ConfigError: it is no simulated robot, or its two arms are of different kinds.
    """
    models = {arm.model for arm in settings.arms.values()}
    if settings.kind != "cell" or len(models) > 1:
        found = f"kind {settings.kind} with the arms {sorted(str(model) for model in models)}"
        raise ConfigError(f"robot {settings.name!r} is of {found}, expected kind cell with one sort of arms.")
    return models.pop() or "handheld"


def controller_tcp(embodiment: str, side: str, world: ArmWorld) -> Float[ndarray, "4 4"]:
    """The TCP that the controller of an arm (or what holds a hand) speaks of, seen from between the fingertips."""
    tcp = np.eye(4)
    if embodiment != "handheld":
        tcp[:3, 3], turn = arm_model(embodiment).tcp[side]
        tcp[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    off = np.eye(4)
    off[:3, 3] = world.tool_shift * _SHIFTED
    off[:3, :3] = Rotation.from_rotvec(world.tool_turn * _TURNED, degrees=True).as_matrix()
    return off @ tcp


def _reach(model: mujoco.MjModel, geom: int, way: Float[ndarray, 3]) -> float:
    """How far a shape reaches from its middle along a unit vector in its own axes (and against it), metres."""
    import mujoco

    a, b, _ = size = model.geom_size[geom]
    kind = model.geom_type[geom]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return float(np.abs(way) @ size)
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return float(a * np.hypot(way[0], way[1]) + b * abs(way[2]))
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return float(a)
    mesh = int(model.geom_dataid[geom])
    first = int(model.mesh_vertadr[mesh])
    return float(np.max(model.mesh_vert[first : first + model.mesh_vertnum[mesh]] @ way))


def build_cell(
    embodiment: str, scene: Scene, settings: CellSettings | None = None
) -> tuple[mujoco.MjModel, Names]:
    """Compile the cell.

    An arm is added by `rdt2.sim.arms.add_arm(spec, model="ur5e" | "fr3", side=...)`. It returns the `MjsSite`
    on its flange (z out of the flange) to which the gripper's body frame is attached, and names all it adds
    with the prefix `{side}/`. Its controller `rdt2.sim.controller.ArmController(model, data, side=...,
    tcp_site=...)` is a `rdt2.sim.handheld.Mover`. Base and flange are turned so that the waiting pose of
    `tcp_rotation(side)`, camera towards the other hand, is in the middle of the last joint's range.

    Raises:
        TaskError: unknown embodiment.
    """
    render.load_mujoco()
    if embodiment not in EMBODIMENTS and not MODULE.fullmatch(embodiment):
        raise TaskError(
            f"embodiment is {embodiment!r}, expected one of {', '.join(EMBODIMENTS)}."
            f"{did_you_mean(embodiment, EMBODIMENTS)}"
        )
    spec, world = build_scene(scene), (settings or CellSettings()).arms
    for side in ARMS:
        if embodiment == "handheld":
            holder = spec.worldbody.add_body(name=f"{side}/hand")
            holder.add_freejoint(name=f"{side}/free")
            site = holder.add_site(name=f"{side}/flange", group=4)
            add_tubes(holder, scene.sleeves[side])
        else:
            from rdt2.sim.arms import add_arm, compensate_gravity

            site = add_arm(spec, model=embodiment, side=side)
        spec.attach(gripper_spec(controller_tcp(embodiment, side, world)), prefix=f"{side}/", site=site)
        if embodiment != "handheld":
            compensate_gravity(spec, side, error=world.payload_error)
    if embodiment == "handheld":
        add_tubes(spec.worldbody, scene.posts)
    add_room(spec, scene)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = WRIST_SIZE
    spec.visual.quality.offsamples = 0
    names = {
        part: {side: f"{side}/{part}" for side in ARMS}
        for part in ("tcp", "fingertips", "policy", "camera", "gripper")
    }
    return spec.compile(), Names(**names)


class CellClock:
    """Simulated time. Sleeping advances the cell."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def now(self) -> float:
        """Simulated seconds."""
        return self._cell.time

    def sleep_until(self, time: float) -> None:
        """Simulate until then, seconds of simulated time."""
        self._cell.advance_to(time)


class Cell:
    """A running simulation of one scene.

    `advance_to` runs the physics in steps of 2 ms; functions in `listeners` are called at 30 Hz of simulated
    time. Close it, or use it in a `with` statement.

    Args:
        embodiment: what carries the grippers, one of `EMBODIMENTS`, or an arm of any module.
        scene: what stands on the table, and how it looks.
        settings: what its devices suffer from; None for nothing: pictures of this very moment, true measurements.

    Raises:
        TaskError: unknown embodiment.
        ConfigError: (on the first picture) no OpenGL; the message names the packages.
    """

    def __init__(self, embodiment: str, scene: Scene, settings: CellSettings | None = None) -> None:
        mujoco = render.load_mujoco()
        self.embodiment, self.scene = embodiment, scene
        self.settings = world = settings or CellSettings()
        self.model, self.names = build_cell(embodiment, scene, world)
        self.data = mujoco.MjData(self.model)
        self.listeners: list[Callable[[], None]] = []
        self._renderer: render.CellRenderer | None = None
        self._earlier: Any = None
        if embodiment == "handheld":
            mover: Callable[..., Mover] = HandheldArm
        else:
            from rdt2.sim.controller import ArmController

            mover = ArmController
        self.arms: dict[str, Mover] = {
            side: mover(
                self.model,
                self.data,
                side=side,
                tcp_site=self.names.tcp[side],
                world=world.arms,
                seed=(scene.seed, 10 + i),
            )
            for i, side in enumerate(ARMS)
        }
        self.grippers = {
            side: GripperController(
                self.model, self.data, side=side, world=world.grippers, seed=(scene.seed, 20 + i)
            )
            for i, side in enumerate(ARMS)
        }
        self.cameras = {side: CellCamera(self, side, world.cameras) for side in ARMS}
        self._exposing = tuple(self.cameras.values()) if world.cameras.rate else ()
        self._tcp = {side: controller_tcp(embodiment, side, world.arms) for side in ARMS}
        self._find_bodies()
        self._watch = CollisionWatch(self.model, self.data, self._objects)
        self.reset()
        robot = self.robot()
        robot.connect()
        robot.enable()

    @classmethod
    def of(cls, settings: RobotSettings, scene: Scene) -> Cell:
        """The cell of a robot of kind cell: its arms, and what its section `cell:` says of its devices.

        Raises:
            ConfigError: it is no simulated robot, or its two arms are of different kinds.
        """
        return cls(embodiment_of(settings), scene, settings.cell)

    def _find_bodies(self) -> None:
        model = self.model
        self._objects = {o.name: model.body(o.name).id for o in self.scene.objects}
        self._buttons = {
            o.name: int(model.joint(o.name).qposadr[0]) for o in self.scene.objects if o.kind == "button"
        }
        roots = {side: model.body(self.names.gripper[side]).id for side in ARMS}
        self._fingers = {side: {model.body(f"{side}/finger_{f}").id for f in "ab"} for side in ARMS}
        self._geom_side: dict[int, str] = {}
        for geom in range(model.ngeom):
            body = int(model.geom_bodyid[geom])
            while body:
                for side in ARMS:
                    if body == roots[side]:
                        self._geom_side[geom] = side
                body = int(model.body_parentid[body])
        self._geom_object = {
            geom: name
            for geom in range(model.ngeom)
            for name, body in self._objects.items()
            if model.geom_bodyid[geom] == body
        }

    def reset(self) -> None:
        """Everything back to the start of the scene, at time 0."""
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        for side in ARMS:
            start = self.scene.starts[side]
            self.grippers[side].reset(start.width)
            self.arms[side].reset(start_pose(side, start) @ self._tcp[side])
        mujoco.mj_forward(self.model, self.data)
        self._ticks = 0
        self._watch.clear()
        for camera in self.cameras.values():
            camera.reset()

    # -------------------------------------------------------------------------------------------------
    # running

    @property
    def time(self) -> float:
        """Simulated seconds."""
        return float(self.data.time)

    @property
    def steps(self) -> int:
        """Of the physics since the start."""
        return round(self.time / self.model.opt.timestep)

    def advance_to(self, time: float) -> None:
        """Run the physics until simulated time is `time` (to within half a step). Does nothing if that is
        past.

        Raises:
            SimulationError: the physics broke down.
        """
        import mujoco

        step = self.model.opt.timestep
        kinds = mujoco.mjtWarning
        broken = [int(kind) for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)]
        while self.data.time < time - 0.5 * step:
            for side in ARMS:
                self.arms[side].update()
                self.grippers[side].update()
            mujoco.mj_step(self.model, self.data)
            for camera in self._exposing:
                camera.expose()
            if self.steps % WATCHED == 0:
                self._watch.update()
            if any(self.data.warning[fault].number for fault in broken):
                raise SimulationError(
                    f"the physics of scene {self.scene.seed} broke down (NaN or huge values) and began afresh. "
                    "This episode is lost; go on with another."
                )
            if self.data.time * 30.0 >= self._ticks + 1 - 1e-6:
                self._ticks += 1
                for listener in self.listeners:
                    listener()

    def robot(self, sides: Sequence[str] = ARMS) -> Robot:
        """The arms, grippers, cameras and the clock, through the protocols that real devices implement.

        Args:
            sides: which of the two arms the robot has; what is left out stands still.
        """
        return Robot(
            arms={side: self.arms[side] for side in sides},
            grippers={side: self.grippers[side] for side in sides},
            cameras={side: self.cameras[side] for side in sides},
            clock=CellClock(self),
            policy_to_tcp={side: self.policy_to_tcp(side) for side in sides},
            name=self.embodiment,
            concurrent=False,
        )

    def policy_to_tcp(self, side: str) -> Float[ndarray, "4 4"]:
        """C = inv(T_tcp) @ T_policy: the policy's frame in the TCP frame, measured between the two sites."""
        tcp, policy = self.site_pose(self.names.tcp[side]), self.site_pose(self.names.policy[side])
        return np.linalg.inv(tcp) @ policy

    # -------------------------------------------------------------------------------------------------
    # looking

    def render(
        self,
        camera: str,
        size: tuple[int, int] | None = None,
        *,
        state: Float[ndarray, " q"] | None = None,
    ) -> UInt8[ndarray, "h w 3"]:
        """RGB picture of "left", "right" (384x384) or "front" (640x480), or of another `size` (width,
        height); as it is now, or in a `state` that was kept from `data.qpos`. Raises TaskError for another camera.
        """
        if camera not in (*ARMS, "front"):
            raise TaskError(f"camera is {camera!r}, expected 'left', 'right' or 'front'.")
        if self._renderer is None:
            self._renderer = render.CellRenderer(self.model)
        wrist = camera in ARMS
        width, height = size or (WRIST_SIZE if wrist else FRONT_SIZE)
        smooth = 1 if wrist or width * 2 > render.MAX_WIDTH or height * 2 > render.MAX_HEIGHT else 2
        name = self.names.camera[camera] if wrist else "front"
        data = self.data if state is None else self._as_it_was(state)
        return self._renderer.render(data, name, width, height, smooth=smooth)

    def _as_it_was(self, state: Float[ndarray, " q"]) -> mujoco.MjData:
        """The cell in an earlier state, as far as pictures show it; the simulation is not touched."""
        import mujoco

        if self._earlier is None:
            self._earlier = mujoco.MjData(self.model)
        self._earlier.qpos[:] = state
        mujoco.mj_kinematics(self.model, self._earlier)
        mujoco.mj_comPos(self.model, self._earlier)
        mujoco.mj_camlight(self.model, self._earlier)
        return self._earlier

    def site_pose(self, name: str) -> Float[ndarray, "4 4"]:
        """True pose of a named site, for example `cell.names.tcp["left"]`."""
        return site_pose(self.data, self.model.site(name).id)

    def object_pose(self, name: str) -> Float[ndarray, "4 4"]:
        """True pose of an object's middle (a bowl's foot, a button's cap), cell frame, metres. Raises TaskError."""
        body = self._objects.get(name)
        if body is None:
            raise TaskError(f"no object {name!r} in this scene; it has {list(self._objects)}.")
        pose = np.eye(4)
        pose[:3, :3] = self.data.xmat[body].reshape(3, 3)
        pose[:3, 3] = self.data.xpos[body]
        return pose

    def seen_from(self, side: str, name: str) -> tuple[float, float, float]:
        """Where a wrist camera sees an object's middle: x to the right and y down from the middle of the picture,
        in widths of the picture, and depth along the view in metres. Outside +-0.5, or without depth, it is not
        in the picture.
        """
        camera = self.model.camera(self.names.camera[side])
        view = self.data.cam_xmat[camera.id].reshape(3, 3)
        # MuJoCo's cameras look along their -z with y up
        x, y, z = (self.object_pose(name)[:3, 3] - self.data.cam_xpos[camera.id]) @ view
        width = 2 * np.tan(np.deg2rad(self.model.cam_fovy[camera.id]) / 2) * max(-z, 1e-3)
        return float(x / width), float(-y / width), float(-z)

    def object_speed(self, name: str) -> tuple[float, float]:
        """m/s and rad/s of an object that can be grasped."""
        address = int(self.model.joint(name).dofadr[0])
        velocity = self.data.qvel[address : address + 6]
        return float(np.linalg.norm(velocity[:3])), float(np.linalg.norm(velocity[3:]))

    def lowest_point(self, name: str) -> float:
        """Height of the lowest point of an object that can be grasped, metres above z = 0."""
        geom = int(self.model.body_geomadr[self._objects[name]])
        up = self.data.geom_xmat[geom].reshape(3, 3)[2]  # the world's z in the axes of the shape
        return float(self.data.geom_xpos[geom, 2] - _reach(self.model, geom, up))

    def button_depth(self, name: str) -> float:
        """How far a button is pushed in, metres."""
        return float(-self.data.qpos[self._buttons[name]])

    def _touches(self) -> Iterator[tuple[int, int, str]]:
        """All (number of the contact, geom of a gripper, object it touches) now."""
        for number, (a, b) in enumerate(self.data.contact.geom.tolist()):
            for one, other in ((a, b), (b, a)):
                if one in self._geom_side and other in self._geom_object:
                    yield number, one, self._geom_object[other]

    @property
    def collisions(self) -> list[Collision]:
        """What arms and grippers have hit since the start, but for the fingers on the task's objects, in order."""
        return self._watch.found

    def touching(self) -> set[tuple[str, str]]:
        """All (side, object) where a gripper touches an object now."""
        return {(self._geom_side[geom], name) for _, geom, name in self._touches()}

    def grasping(self, side: str, name: str) -> bool:
        """Whether the object called `name` is between the fingers of `side` now: both touch it from the side, unlike
        fingers that press on it from above.
        """
        opens = self.data.body(self.names.gripper[side]).xmat.reshape(3, 3)[:, 1]
        across = np.abs(self.data.contact.frame[:, :3] @ opens) > ACROSS
        bodies = {
            self.model.geom_bodyid[geom] for i, geom, other in self._touches() if other == name and across[i]
        }
        return self._fingers[side] <= bodies

    def close(self) -> None:
        """Free the renderer and forget the listeners; what is drawn later makes a new renderer."""
        self.listeners.clear()
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> Cell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
