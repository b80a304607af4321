"""Pictures of the cell without a screen.

`MUJOCO_GL` is chosen where it is not set: EGL with an NVIDIA GPU, else OSMesa when its library is there (the
one that needs least on a machine without a GPU), else EGL. One OpenGL context serves the whole process; each
cell has its own `MjrContext` (the model's textures) on it and frees it.
"""

from __future__ import annotations

import atexit
import ctypes
import ctypes.util
import logging
import os
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import ConfigError

if TYPE_CHECKING:
    import mujoco
    from jaxtyping import UInt8
    from numpy import ndarray

BACKENDS = ("egl", "osmesa", "glfw", "cgl")
MAX_WIDTH, MAX_HEIGHT = 1280, 960

_HELP = (
    "The simulation renders without a screen and needs OSMesa or EGL. On Debian or Ubuntu: "
    "'apt-get install libosmesa6' or 'apt-get install libegl1 libgl1-mesa-dri libgles2 libopengl0'. "
    "To choose one yourself set MUJOCO_GL=osmesa or MUJOCO_GL=egl before starting."
)


def choose_backend() -> str:
    """The value for `MUJOCO_GL`: what the environment says, else the best that is installed.

    Raises:
        ConfigError: the environment asks for a backend that does not exist, or neither OSMesa nor EGL is
            installed; the message names the packages.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen:
        if chosen not in BACKENDS:
            raise ConfigError(
                f"MUJOCO_GL is {chosen!r}, expected one of {BACKENDS}. Unset it to let rdt2 choose."
            )
        if (chosen == "cgl") != (sys.platform == "darwin"):
            usual = "cgl" if sys.platform == "darwin" else "egl or osmesa"
            raise ConfigError(
                f"MUJOCO_GL is {chosen!r}, this system has {usual}. Unset it to let rdt2 choose."
            )
        if chosen == "glfw" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError(
                "MUJOCO_GL is 'glfw', which draws on a screen, and there is none (DISPLAY is not set). Unset it to let "
                f"rdt2 choose. {_HELP}"
            )
        return chosen
    if sys.platform == "darwin":
        return "cgl"
    egl = _loads("EGL")
    if egl and (Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()):
        return "egl"
    if _loads("OSMesa"):
        return "osmesa"
    if egl:
        return "egl"
    raise ConfigError(f"found no library for off-screen rendering that works. {_HELP}")


def _loads(library: str) -> bool:
    """Whether a library is installed whole: a broken one is as good as none."""
    name = ctypes.util.find_library(library)
    try:
        return name is not None and bool(ctypes.CDLL(name))
    except OSError:
        return False


def load_mujoco() -> ModuleType:
    """Import mujoco with `MUJOCO_GL` set to what works here.

    Raises:
        ConfigError: mujoco is not installed, or no OpenGL library; the message says what to install.
    """
    if "mujoco" not in sys.modules:
        os.environ["MUJOCO_GL"] = choose_backend()
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise ConfigError("the simulation needs mujoco. Install it with 'pip install rdt2[sim]'.") from error
    except Exception as error:  # whatever the binding of a platform raises when its library is broken
        raise _no_opengl(error) from error
    if mujoco.get_mju_user_warning() is None:
        # Its own way is a MUJOCO_LOG.TXT in whatever folder the user is in. What matters becomes a SimulationError.
        mujoco.set_mju_user_warning(logging.getLogger(__name__).info)
    return mujoco


def require_rendering() -> None:
    """See that pictures can be drawn, before anything else is loaded or computed.

    Raises:
        ConfigError: as `load_mujoco`, or OpenGL does not start.
    """
    mujoco = load_mujoco()
    _gl()
    _made(mujoco.MjModel.from_xml_string("<mujoco/>")).free()


def _no_opengl(error: Exception) -> ConfigError:
    chosen = os.environ.get("MUJOCO_GL")
    return ConfigError(f"OpenGL could not start with MUJOCO_GL={chosen}: {str(error).rstrip('.')}. {_HELP}")


_local = threading.local()


def _gl() -> Any:
    """This thread's OpenGL context, made once and made current."""
    if getattr(_local, "context", None) is None:
        backend = choose_backend()
        try:
            # Its own surface is never drawn to, pictures have their own buffer.
            # Not mujoco.GLContext: that one was chosen at import, perhaps before MUJOCO_GL was set
            context = import_module(f"mujoco.{backend}").GLContext(8, 8)
            context.make_current()
        except (
            Exception
        ) as error:  # whatever the platform's binding raises when its library or driver is missing
            raise _no_opengl(error) from error
        # mujoco's own clean-up would run when OpenGL's modules are already gone
        atexit.register(context.free)
        _local.context = context
    _local.context.make_current()
    return _local.context


def _made(model: mujoco.MjModel) -> Any:
    """A model's textures and buffers in OpenGL."""
    import mujoco

    try:
        return mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    except mujoco.FatalError as error:  # a context that began and draws nothing
        raise _no_opengl(error) from error


class CellRenderer:
    """Pictures of one model. Use it from the thread that made it, and close it."""

    def __init__(self, model: mujoco.MjModel) -> None:
        mujoco = load_mujoco()
        _gl()
        self._model = model
        self._context: Any = _made(model)
        self._sharpen_textures()
        self._size = (int(model.vis.global_.offwidth), int(model.vis.global_.offheight))
        self._scene = mujoco.MjvScene(model, maxgeom=400)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = False
        self._option = mujoco.MjvOption()
        self._option.geomgroup[3:] = 0  # what is only there to be touched
        self._option.sitegroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._perturb = mujoco.MjvPerturb()
        self._drawn = np.empty(0, int)
        """The model's geom that each of the scene's is; always the same ones in the same order."""

    def _sharpen_textures(self) -> None:
        """Look textures up in one level, not blended between two: a third of a picture's time on a CPU."""
        from OpenGL import GL

        for texture, kind in zip(self._context.texture, self._context.textureType, strict=True):
            if texture and kind == 0:
                GL.glBindTexture(GL.GL_TEXTURE_2D, int(texture))
                GL.glTexParameteri(GL.GL_TEXTURE_2D, GL.GL_TEXTURE_MIN_FILTER, GL.GL_LINEAR)

    def render(
        self, data: mujoco.MjData, camera: str, width: int, height: int, *, smooth: int = 1
    ) -> UInt8[ndarray, "h w 3"]:
        """RGB of a named camera. `smooth` > 1 draws that many times finer and averages (soft edges).

        Raises:
            ConfigError: the renderer is closed, or the picture is too large.
        """
        import mujoco

        if self._context is None:
            raise ConfigError("this renderer is closed. Make a new cell.")
        if width * smooth > MAX_WIDTH or height * smooth > MAX_HEIGHT:
            raise ConfigError(
                f"a picture of {width}x{height} is asked for, the most is {MAX_WIDTH}x{MAX_HEIGHT}."
            )
        _gl()
        # The buffer grows when a bigger picture is first asked for: clearing a big one costs milliseconds.
        size = (max(self._size[0], width * smooth), max(self._size[1], height * smooth))
        if size != self._size:
            mujoco.mjr_resizeOffscreen(*size, self._context)
            self._size = size
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        self._leave_out_unseen(data, width / height)
        view = mujoco.MjrRect(0, 0, width * smooth, height * smooth)
        picture = np.empty((height * smooth, width * smooth, 3), np.uint8)
        mujoco.mjr_render(view, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, view, self._context)
        picture = picture[::-1]
        if smooth > 1:
            parts = [picture[i::smooth, j::smooth] for i in range(smooth) for j in range(smooth)]
            return (np.add.reduce(parts, axis=0, dtype=np.uint16) // len(parts)).astype(np.uint8)
        return np.ascontiguousarray(picture)

    def _leave_out_unseen(self, data: mujoco.MjData, aspect: float) -> None:
        """Of the scene, what is wholly out of the camera's view: on a CPU it costs as much as what is seen."""
        import mujoco

        model, scene, camera = self._model, self._scene, self._camera.fixedcamid
        if len(self._drawn) != scene.ngeom:
            geoms = (scene.geoms[i] for i in range(scene.ngeom))
            self._drawn = np.array([g.objid if g.objtype == mujoco.mjtObj.mjOBJ_GEOM else -1 for g in geoms])
        radius = np.where(self._drawn < 0, 0.0, model.geom_rbound[self._drawn])  # 0: a plane, without an end
        # in the camera's axes: x to the right, y up, looking along -z
        middle = (data.geom_xpos[self._drawn] - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
        half = np.tan(np.radians(model.cam_fovy[camera]) / 2) * np.array([aspect, 1.0])
        past_an_edge = (np.abs(middle[:, :2]) + half * middle[:, 2:]) / np.sqrt(1 + half**2) > radius[:, None]
        unseen = (past_an_edge.any(axis=1) | (middle[:, 2] > radius)) & (radius > 0)
        for i in np.flatnonzero(unseen):
            scene.geoms[i].type = mujoco.mjtGeom.mjGEOM_NONE

    def close(self) -> None:
        """Free the model's textures and buffers; the process keeps its one OpenGL context."""
        if self._context is not None:
            _gl()
            self._context.free()
            self._context = None
