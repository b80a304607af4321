"""Devices of this machine, moved from another one: what `rdt2 robot serve` runs on a real-time host.

    with DeviceHost.of(settings, {"right arm": arm}, clock) as host:     # ws://127.0.0.1:8790/right/arm
        host.wait()

A device is a websocket of its own. Messages are maps of `rdt2.wire`; times are seconds of the host's clock.

* `/right/arm` is a session; whoever holds it moves the device, one at a time. The host first says what the device is,
  then `status` at least 125 times a second: how it is, where it is, which command it took last, and when it heard the
  client's last sign of life. The client says `{"beat": t}` every 20 ms; `{"execute": n, "times": ..., "values": ...}`
  (and `"joints": True` where the values are joints), for which it does not wait; and `{"ask": n, "do": "enable"}`,
  which is answered.
* `/right/arm/stop` is for stopping alone: each message on it stops the device, whatever the session is busy with, and
  whoever holds that.

The device stops where its client is silent for 100 ms while a motion is commanded, where the connection ends, however
it ends, and where a message cannot be read. It stays stopped until a person's `recover` comes through a session.
"""

from __future__ import annotations

import contextlib
import http
import logging
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import ConfigError, LateError, RDT2Error, RobotError, WireError
from rdt2.robot.protocols import WATCHDOG, Arm, Checked, Clock, Gripper, Health, JointArm
from rdt2.serving.security import Bounds, Rates, allowed
from rdt2.threads import hurry
from rdt2.wire import Limits, packed, unpacked

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self
    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection

    from rdt2.robot.settings import RobotSettings

log = logging.getLogger(__name__)

PROTOCOL = 1
RATE = 150.0
"""Statuses a second, where the device measures as often."""
AT_LEAST = 0.04
"""Seconds between statuses where nothing changes."""
LOST = 1.0
"""Seconds of silence after which a client counts as gone."""
MOST_WAYPOINTS = 1024
LIMITS = Limits(message_bytes=256 * 2**10, entries=64, keys=16, text_bytes=256)
ASKED = ("connect", "enable", "recover", "stop", "close", "checks")
_LOOK = 0.01
_STATE = {"arm": ("pose", "velocity", "joints", "wrench"), "gripper": ("width",)}


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """Where a host listens, and who may come."""

    host: str = "127.0.0.1"
    port: int = 8790
    """0: any that is free."""
    api_key: str | None = None
    tls: ssl.SSLContext | None = None


class DeviceHost:
    """Serves devices until it is closed.

    Args:
        devices: arms and grippers by name ("right arm"), not necessarily connected: their clients see to that.
        clock: the devices'.
        about: by device, what a client compares with its own settings: base, model, tool.
        settings: where and how.

    Raises:
        ConfigError: the port cannot be had.
    """

    def __init__(
        self,
        devices: Mapping[str, Arm | Gripper],
        clock: Clock,
        *,
        about: Mapping[str, Mapping[str, Any]] | None = None,
        settings: HostSettings | None = None,
    ) -> None:
        self.settings = settings or HostSettings()
        self._hosted = {
            "/" + name.replace(" ", "/"): Hosted(name, device, clock, dict((about or {}).get(name, {})))
            for name, device in devices.items()
        }
        self._handshakes = Rates(Bounds().handshakes_per_second, 10 * Bounds().handshakes_per_second)
        self._listening = _bound(self.settings.host, self.settings.port)
        self.port = int(self._listening.getsockname()[1])
        self._leaving, self._ended = threading.Event(), threading.Event()
        self._server: Any = None

    @classmethod
    def of(
        cls,
        robot: RobotSettings,
        devices: Mapping[str, Arm | Gripper],
        clock: Clock,
        settings: HostSettings | None = None,
    ) -> DeviceHost:
        """Arms and grippers of a robot, by name ("right arm")."""
        about: dict[str, dict[str, Any]] = {}
        for side in robot.sides:
            arm = robot.arms[side]
            about[f"{side} arm"] = {"base": arm.base, "model": arm.model, "tool": arm.tool}
            about[f"{side} gripper"] = {"stroke": arm.gripper.stroke}
        return cls(devices, clock, about=about, settings=settings)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each device is: "/right/arm"."""
        return tuple(self._hosted)

    def start(self) -> None:
        """Listen, in threads of its own."""
        from websockets.sync.server import serve

        quiet = logging.getLogger("rdt2.devices.websockets")
        quiet.setLevel(logging.CRITICAL)  # strangers that speak no websocket are not worth a traceback each
        self._server = serve(
            self._handle,
            sock=self._listening,
            ssl=self.settings.tls,
            process_request=self._admit,
            origins=[None],  # no web page: a browser would let any of them move an arm of its machine
            compression=None,
            server_header=None,
            open_timeout=5.0,
            ping_interval=None,  # the session's own signs of life come fifty times a second
            close_timeout=1.0,
            max_size=LIMITS.message_bytes,
            logger=quiet,
        )
        threading.Thread(target=self._serve, name="host", daemon=True).start()
        for hosted in self._hosted.values():
            threading.Thread(target=hosted.watch, args=(self._ended,), daemon=True).start()
        log.info("listening", extra={"host": self.settings.host, "port": self.port})

    def _serve(self) -> None:
        hurry()  # and those that it starts: one for each client
        self._server.serve_forever()

    def wait(self) -> None:
        """Return when somebody has said `leave`."""
        self._leaving.wait()

    def leave(self) -> None:
        """End `wait`; from any thread, or a signal's handler."""
        self._leaving.set()

    def close(self) -> None:
        """Stop all devices, send clients away, and close the devices. Again: nothing happens."""
        self.leave()
        if self._ended.is_set():
            return
        self._ended.set()
        ends = [threading.Thread(target=hosted.end, daemon=True) for hosted in self._hosted.values()]
        for end in ends:
            end.start()
        for end in ends:
            end.join(5.0)
        if self._server is not None:
            self._server.shutdown()
        self._listening.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """None for a client that may come, or why it may not."""
        status, words = http.HTTPStatus.OK, ""
        path, _, end = request.path.partition("/stop")
        if self._handshakes.wait(_address(connection)):
            status, words = http.HTTPStatus.TOO_MANY_REQUESTS, "too many connections a second"
        elif not allowed(request.headers.get("Authorization"), self.settings.api_key):
            status = http.HTTPStatus.UNAUTHORIZED
            words = "this host asks for its API key, in the header 'Authorization: Api-Key KEY'"
        elif path not in self._hosted or end:
            status, words = (
                http.HTTPStatus.NOT_FOUND,
                f"here are {', '.join(self._hosted)}, and /stop of each",
            )
        elif request.path == path and (holder := self._hosted[path].holder):
            status = http.HTTPStatus.CONFLICT
            words = f"{holder} moves this device; there is one client at a time"
        if not words:
            return None
        log.warning("connection refused", extra={"client": _address(connection), "reason": words})
        return connection.respond(status, words + "\n")

    def _handle(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        assert connection.request is not None
        path = connection.request.path
        hosted = self._hosted[path.removesuffix("/stop")]
        with contextlib.suppress(ConnectionClosed, OSError):  # nobody is left to be told
            if path.endswith("/stop"):
                hosted.stops(connection)
            else:
                Session(hosted, connection).run()


class Hosted:
    """One device, and whoever moves it."""

    def __init__(self, name: str, device: Arm | Gripper, clock: Clock, about: dict[str, Any]) -> None:
        self.name, self.device, self.clock = name, device, clock
        self.kind = "arm" if name.endswith("arm") else "gripper"
        self.about = {**about, "name": name, "protocol": PROTOCOL, "joints": isinstance(device, JointArm)}
        self.session: Session | None = None
        self.until = float("-inf")
        """When the last commanded motion ends."""
        self.done, self.late = 0, 0
        self._late_by = 0.0
        self._fault, self._number, self._numbering = "", 0, threading.Lock()

    @property
    def holder(self) -> str:
        """Who holds the session; empty: nobody."""
        session = self.session
        return "" if session is None else session.address

    def health(self) -> Health:
        """Of the device, with what this host has against it."""
        health = self.device.health()
        fault = self._fault or health.fault
        if self.late and "heard nothing" in fault:
            fault += (
                f". {self.late} commands came too late, by up to {1e3 * self._late_by:.0f} ms: if that is the "
                "network's way, give its driver a larger lead (and the arm's latency as much more)"
            )
        return Health(health.connected, health.enabled, health.stopped or bool(self._fault), fault)

    def status(self) -> dict[str, Any]:
        """How it is; numbered, because statuses take two ways to a client."""
        with self._numbering:
            self._number += 1
            health, state = self.health(), None
            if health.connected:
                with contextlib.suppress(
                    RobotError
                ):  # it has measured nothing yet, or is lost: health says so
                    measured: Any = self.device.state()
                    state = {"timestamp": measured.timestamp, "sequence": measured.sequence}
                    state |= {name: getattr(measured, name) for name in _STATE[self.kind]}
            return {
                "number": self._number,
                "now": self.clock.now(),
                "done": self.done,
                "late": self.late,
                "health": [health.connected, health.enabled, health.stopped, health.fault],
                "state": state,
            }

    def do(self, what: str) -> Any:
        """What a client asks for. Raises what the device raises."""
        if what == "stop":
            return self.device.stop()
        if what == "checks":
            found = self.device.checks() if isinstance(self.device, Checked) else []
            return [[check.name, check.expected, check.got, check.ok] for check in found]
        if what in ("recover", "close"):
            self.until = float("-inf")
        getattr(self.device, what)()
        if what in ("recover", "close"):
            self._fault, self.late, self._late_by = "", 0, 0.0
        return None

    def execute(self, number: int, times: Any, values: Any, *, joints: bool) -> None:
        """A command that nobody waits for: what is refused of it stops the device, and is its fault."""
        self.done = number
        if not self.health().ok:
            return  # it was right when it was sent: its sender hears what has happened
        try:
            if joints and isinstance(self.device, JointArm):
                self.device.execute_joints(times, values)
            else:
                self.device.execute(times, values)
        except LateError:
            self.late += 1
            self._late_by = max(self._late_by, self.clock.now() - float(times[-1]))
        except RDT2Error as error:
            self.fail(str(error))
        except Exception as error:
            log.exception("a command failed", extra={"device": self.name})
            self.fail(f"a command failed ({type(error).__name__}: {error})")
        else:
            self.until = float(times[-1])

    def fail(self, reason: str) -> None:
        """Stop it, and keep it stopped; the first reason is kept."""
        health = self.device.health()
        if health.connected and health.enabled:
            self._fault = self._fault or health.fault or reason
            log.warning("stopped", extra={"device": self.name, "reason": reason})
            self.device.stop()

    def watch(self, ended: threading.Event) -> None:
        """Stop it when its client falls silent."""
        hurry()
        while not ended.wait(_LOOK):
            session = self.session
            if session is None:
                continue
            silent = time.monotonic() - session.heard
            if silent > LOST:
                session.drop(f"it was silent for {silent:.1f} s")
            elif silent > WATCHDOG and self.clock.now() < self.until and self.health().ok:
                self.fail(f"heard nothing for {1e3 * WATCHDOG:.0f} ms from {session.address}")

    def stops(self, connection: ServerConnection) -> None:
        """A connection whose every message stops the device."""
        while True:
            connection.recv()
            error = None
            try:
                self.device.stop()
            except Exception as failed:
                error = _told(failed)
            connection.send(packed({"error": error, "status": self.status()}))

    def end(self) -> None:
        """The host ends: stop, send the client away, close."""
        session = self.session
        with contextlib.suppress(Exception):  # the others are to be stopped, too; closing stops once more
            self.device.stop()
        if session is not None:
            session.drop("the host ends")
        try:
            self.device.close()
        except Exception:
            log.exception("could not be closed", extra={"device": self.name})


class Session:
    """A client that moves a device, until it leaves or is lost."""

    def __init__(self, hosted: Hosted, connection: ServerConnection) -> None:
        self.hosted, self.connection = hosted, connection
        self.address = _address(connection)
        self.heard = time.monotonic()
        self._echo: tuple[float, float] | None = None
        self._asking = threading.Lock()
        self._over = threading.Event()
        self._left, self._why = False, "it has closed the connection"

    def run(self) -> None:
        """Answer, until the connection ends."""
        from websockets.exceptions import ConnectionClosed

        hosted = self.hosted
        with hosted._numbering:
            if hosted.session is not None:  # another one was quicker
                self.connection.close(1008, f"{hosted.holder} moves this device")
                return
            hosted.session = self
        try:
            self.connection.send(packed({"hello": hosted.about}))
            threading.Thread(target=self._stream, daemon=True).start()
            while True:
                data = self.connection.recv()
                self.heard = time.monotonic()
                self._take(data)
        except (ConnectionClosed, OSError):
            pass
        except Exception as error:  # what nobody can read may have been a stop: never go on
            if not isinstance(error, WireError):
                log.exception("a message could not be handled", extra={"device": hosted.name})
            self.drop(f"it has sent what cannot be read: {error}")
        finally:
            self._over.set()
            if not self._left:
                hosted.fail(f"lost {self.address}, which moved it: {self._why}")
            hosted.session = None

    def drop(self, why: str) -> None:
        """Send the client away."""
        self._why = why
        self._over.set()
        with contextlib.suppress(OSError):  # it has gone already
            self.connection.socket.shutdown(socket.SHUT_RDWR)

    def _take(self, data: bytes | str) -> None:
        """One message. Raises WireError."""
        if isinstance(data, str):
            raise WireError("a text came, expected bytes.")
        message = unpacked(data, LIMITS)
        if "beat" in message:
            self._echo = (_number(message["beat"]), self.hosted.clock.now())
        elif "execute" in message:
            times, values = message.get("times"), message.get("values")
            for array in (times, values):
                if not isinstance(array, np.ndarray) or not 1 <= array.shape[0] <= MOST_WAYPOINTS:
                    raise WireError(f"a command has no times and values of 1 to {MOST_WAYPOINTS} waypoints.")
            joints = message.get("joints") is True
            self.hosted.execute(int(_number(message["execute"])), times, values, joints=joints)
        elif "ask" in message:
            number, what = int(_number(message["ask"])), message.get("do")
            if what not in ASKED:
                raise WireError(f"it asks for {what!r:.40}, expected one of {', '.join(ASKED)}.")
            # beside the session, which goes on hearing signs of life while a device takes its time
            threading.Thread(target=self._answer, args=(number, what), daemon=True).start()
        else:
            raise WireError(f"a message has the keys {list(message)!r:.80}, expected beat, execute or ask.")

    def _answer(self, number: int, what: str) -> None:
        from websockets.exceptions import ConnectionClosed

        error, result = None, None
        with self._asking:
            try:
                result = self.hosted.do(what)
                self._left = what == "close"
            except Exception as failed:
                error = _told(failed)
        with contextlib.suppress(ConnectionClosed, OSError):
            answer = {"answer": number, "error": error, "result": result, "status": self.hosted.status()}
            self.connection.send(packed(answer))

    def _stream(self) -> None:
        """Say how it is, again and again."""
        from websockets.exceptions import ConnectionClosed

        said: Any = None
        due, last = time.monotonic(), float("-inf")
        try:
            while not self._over.is_set():
                status = self.hosted.status()
                state, now = status["state"], time.monotonic()
                news = (status["health"], None if state is None else state["sequence"])
                if news != said or now - last > AT_LEAST:
                    self.connection.send(packed({"status": status, "echo": self._echo}))
                    said, last = news, now
                due = max(due + 1 / RATE, time.monotonic())
                self._over.wait(due - time.monotonic())
        except (ConnectionClosed, OSError):
            pass
        except Exception as error:
            log.exception("a device does not say how it is", extra={"device": self.hosted.name})
            self.drop(f"the host cannot say how it is ({type(error).__name__}: {error})")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise WireError(f"{value!r:.40} came, expected a number.")
    return float(value)


def _told(error: Exception) -> list[str]:
    """An error as it is sent: the name of its kind, and its words."""
    kind = type(error).__name__ if isinstance(error, RDT2Error) else "RobotError"
    return [kind, str(error) if isinstance(error, RDT2Error) else f"{type(error).__name__}: {error}"]


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=16)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error}. Choose a free --port, and a --host that this machine has."
        ) from error


def _address(connection: ServerConnection) -> str:
    remote = connection.remote_address
    return f"{remote[0]}:{remote[1]}" if remote else "unknown"
