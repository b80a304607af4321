"""Devices of this machine, moved from another one: what `rdt2 robot serve` runs on a real-time host.

    with DeviceHost.of(settings, {"right arm": arm}, clock) as host:     # ws://127.0.0.1:8790/right/arm
        host.wait()

A device is a websocket of its own. Messages are maps of `rdt2.wire`; times are seconds of the host's clock.

* `/right/arm` is a session; whoever holds it moves the device, one at a time. The host first says what the device is,
  then `status` at least 125 times a second: how it is, where it is, which command it took last, how many came too late,
  and when it heard the client's last sign of life. The client says `{"beat": t}` every 20 ms;
  `{"execute": n, "times": ..., "values": ...}` (and `"joints": True` where the values are joints), for which it does
  not wait; and `{"ask": n, "do": "enable"}`, which is answered.
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

from rdt2.devices.hosted import Hosted, Sockets, about_arm, told
from rdt2.errors import ConfigError, WireError
from rdt2.robot.protocols import Arm, Clock, Gripper
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

RATE = 150.0
"""Statuses a second, where the device measures as often."""
AT_LEAST = 0.04
"""Seconds between statuses where nothing changes."""
MOST_WAYPOINTS = 1024
LIMITS = Limits(message_bytes=256 * 2**10, entries=64, keys=16, text_bytes=256)
ASKED = ("connect", "enable", "recover", "stop", "close", "checks")


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
        self._strangers = Sockets(Bounds().handshakes)
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
            about[f"{side} arm"] = about_arm(arm)
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
        handle, strangers = self._server.handler, self._strangers

        def bounded(stranger: socket.socket, address: Any) -> None:
            strangers.take(stranger)  # before TLS and websocket: each of them has threads
            try:
                handle(stranger, address)
            finally:
                strangers.leave(stranger)

        self._server.handler = bounded
        threading.Thread(target=self._server.serve_forever, name="host", daemon=True).start()
        for hosted in self._hosted.values():
            threading.Thread(target=hosted.watch, args=(self._ended,), daemon=True).start()
        log.info("listening", extra={"host": self.settings.host, "port": self.port})

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

        self._strangers.leave(connection.socket)
        hurry()  # only now: a stranger is served after whatever drives an arm
        hurry(connection.recv_events_thread)
        assert connection.request is not None
        path = connection.request.path
        hosted = self._hosted[path.removesuffix("/stop")]
        with contextlib.suppress(ConnectionClosed, OSError):  # nobody is left to be told
            if path.endswith("/stop"):
                hosted.stops(connection)
            else:
                Session(hosted, connection).run()


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

    @property
    def lost(self) -> str:
        """The fault of a device whose client has gone and not closed it; empty while there is none."""
        gone = self._over.is_set() and not self._left
        return f"lost {self.address}, which moved it: {self._why}" if gone else ""

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
            try:
                if self.lost:
                    hosted.fail(self.lost)
            finally:
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
            if self.lost and what not in ("stop", "close"):
                return  # it had waited for another one: nobody's wish any more
            self._left = False
            try:
                result = self.hosted.do(what, self)
                self._left = what == "close"
            except Exception as failed:
                error = told(failed)
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
