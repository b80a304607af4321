"""The other end of `rdt2.devices.host`: a session with one device of another machine, as drivers use it.

Two connections are held: one that moves the device, and one for stopping alone. A thread hears how the device is, one
says every 20 ms that this side is alive, and both clocks are mapped by the quickest of those that came back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from rdt2 import errors
from rdt2.devices.clock import HostClock
from rdt2.devices.drivers import Opening, Options
from rdt2.devices.hosted import LARGER_LEAD, PROTOCOL
from rdt2.errors import ConfigError, LateError, RDT2Error, RobotError, SafetyError, WireError
from rdt2.policy.client import read_key
from rdt2.robot.device import require_ready
from rdt2.robot.protocols import Check, Clock, Health, Timing
from rdt2.threads import hurry
from rdt2.wire import packed, unpacked

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

BEAT = 0.02
SILENT = 0.5
"""Seconds without a word of the host after which it counts as lost."""
PAUSE = 0.5
"""Seconds without a command after which the next one begins another motion, and is no place to tell what came too late
of the one before."""
ANSWER_SECONDS = {"stop": 2.0, "close": 5.0}
_QUIET = logging.getLogger("rdt2.devices.remote.websockets")
_QUIET.setLevel(logging.CRITICAL)  # connections that end are told here, in our own words
LONG = 60.0
"""Seconds that connecting, enabling and recovering may take there: brakes, a person at a button."""


class RemoteOptions(Options):
    """A device of another machine, where `rdt2 robot serve` runs."""

    address: str = Field(
        description="Where `rdt2 robot serve` runs: ws://192.168.0.5:8790, or wss:// with TLS."
    )
    api_key_file: Path | None = Field(
        default=None, description="File with the key that the host was started with (--api-key-file)."
    )
    lead: float = Field(
        default=0.01,
        ge=0,
        le=0.5,
        description="Seconds by which the host follows later than it is told: as long as the network may take for a "
        "message. It is a part of the device's latency, which must be at least that.",
    )
    connect_seconds: float = Field(
        default=5.0, gt=0, le=600, description="For so long it is tried to reach the host."
    )


@dataclass(frozen=True)
class Status:
    """How a device is, as its host said last."""

    number: int
    health: Health
    state: dict[str, Any] | None
    done: int
    late: int
    """Commands that came too late there since a person let the device move."""
    late_by: float
    """By how many seconds at most."""
    heard: float
    """When it came, on this machine's monotonic clock."""


class Link:
    """A session with a device of a host.

    Args:
        name: of the device, for messages: "left arm".
        options: where, and how patiently.
        clock: the robot's.

    Raises:
        RobotError: the host cannot be reached, or refuses.
    """

    def __init__(self, name: str, options: RemoteOptions, clock: Clock) -> None:
        self.name, self.options, self.clock = name, options, clock
        self.lost = ""
        """Why the host is lost; empty while it is not."""
        self.status: Status | None = None
        self.map = HostClock()
        self._answers: dict[int, dict[str, Any]] = {}
        self._change = threading.Condition()
        self._asked, self._told, self._told_at = 0, 0, float("-inf")
        self._late = 0  # commands of which nobody here has been told that they came too late there
        self._stopping = threading.Lock()
        key = None if options.api_key_file is None else read_key(options.api_key_file)
        self._headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
        path = name.rsplit(" ", 1)
        self._url = f"{options.address.rstrip('/')}/{path[0]}/{path[1]}"
        self._main, self.about = self._greeted()
        try:
            self._stop = self._connected(self._url + "/stop")
        except BaseException:
            self._main.close()
            raise
        for work in (self._listen, self._beat):
            threading.Thread(target=work, name=f"{name} {work.__name__}", daemon=True).start()
        self._wait(lambda: self.status is not None and self._is_mapped(), 5.0)

    # ---------------------------------------------------------------------------------------------- connecting

    def _greeted(self) -> tuple[Any, dict[str, Any]]:
        """A session that has been greeted. A host that has just lost another one is asked again."""
        until = time.monotonic() + self.options.connect_seconds
        while True:
            connection = self._connected(self._url, until)
            try:
                hello = unpacked(connection.recv(timeout=5.0)).get("hello")
                if not isinstance(hello, dict) or hello.get("protocol") != PROTOCOL:
                    found = hello.get("protocol") if isinstance(hello, dict) else None
                    raise RobotError(
                        f"{self._url} speaks version {found} of the protocol, expected {PROTOCOL}: install the same "
                        "version of rdt2 on both machines."
                    )
                return connection, hello
            except Exception as error:
                connection.close()
                if isinstance(error, RobotError) or time.monotonic() > until:
                    raise RobotError(f"{self._url} is no host of devices: {_words(error)}") from error
                time.sleep(0.1)

    def _connected(self, url: str, until: float | None = None) -> Any:
        from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
        from websockets.sync.client import connect

        until = time.monotonic() + self.options.connect_seconds if until is None else until
        while True:
            try:
                return connect(
                    url, additional_headers=self._headers, open_timeout=max(0.1, until - time.monotonic()),
                    ping_interval=None, close_timeout=1.0, compression=None, proxy=None, max_size=2**20, logger=_QUIET,
                )  # fmt: skip
            except InvalidStatus as error:
                told = (error.response.body or b"").decode("utf-8", "replace").strip()
                refusal = f"{url} refuses the connection (HTTP {error.response.status_code}): {told:.300}"
                if error.response.status_code not in (409, 429):  # another moves it, or was lost a moment ago
                    raise RobotError(f"{refusal}. Look at address and api_key_file of its driver.") from error
                failure: Exception = RobotError(f"{refusal}.")
            except InvalidHandshake as error:
                failure = error
            except (OSError, TimeoutError, WebSocketException) as error:
                failure = error
            if time.monotonic() > until:
                raise RobotError(
                    f"{url} could not be reached for {self.options.connect_seconds:g} s ({_words(failure)}). Is "
                    "`rdt2 robot serve` running there, on this port, and with a --host that this machine reaches?"
                ) from failure
            time.sleep(0.1)

    def close(self) -> None:
        """Leave the host, which stops the device unless it was closed before."""
        self._lose("this side has left")

    # --------------------------------------------------------------------------------------- asking and telling

    def ask(self, what: str) -> Any:
        """Have the host do something, and wait for its answer.

        Raises:
            what the device raised there. RobotError: the host is lost, or does not answer.
        """
        with self._change:
            self._asked += 1
            number = self._asked
        self._send({"ask": number, "do": what})
        seconds = ANSWER_SECONDS.get(what, LONG)
        self._wait(lambda: number in self._answers, seconds)
        with self._change:
            answer = self._answers.pop(number)
        _raise(answer.get("error"))
        return answer.get("result")

    def stop(self) -> None:
        """Stop the device, on the connection that does nothing else.

        Raises:
            RobotError: the host is lost, or does not answer.
        """
        if self.lost:
            raise RobotError(f"the {self.name} is lost: {self.lost}. Its host stops it by itself.")
        with self._stopping:
            try:
                self._stop.send(packed({"stop": True}))
                answer = unpacked(self._stop.recv(timeout=ANSWER_SECONDS["stop"]))
            except Exception as error:
                self._lose(f"it did not answer a stop ({_words(error)})")
                raise RobotError(
                    f"the {self.name} is lost: {self.lost}. Its host stops it by itself."
                ) from error
        self._note(answer.get("status"))
        _raise(answer.get("error"))

    def tell(self, times: Float[ndarray, " n"], values: ndarray, *, joints: bool = False) -> None:
        """A command, at times of the robot's clock; nobody waits for an answer.

        values: poses (n, 4, 4) in metres, widths (n,) in metres, or joint angles (n, j) in radians.

        Raises:
            SafetyError: the host is lost. LateError: commands shortly before this one came too late there; this one has
                been sent.
        """
        now = self.clock.now()
        offset, _ = self.map.best(now)
        goes_on, self._told_at = now - self._told_at <= PAUSE, now
        self._told += 1
        there = np.asarray(times, np.float64) + (offset + self.options.lead)
        command = {"execute": self._told, "times": there, "values": np.asarray(values, np.float64)}
        try:
            self._send(command | ({"joints": True} if joints else {}))
        except RobotError as error:
            raise SafetyError(str(error)) from error
        with self._change:
            assert self.status is not None
            late, by, self._late = self._late, self.status.late_by, 0
        if late and goes_on:
            raise LateError(
                f"{late} of the commands before this one came to the host of the {self.name} too late, by up to "
                f"{1e3 * by:.0f} ms: {LARGER_LEAD}."
            )

    def here(self, stamp: float) -> float:
        """A time of the host's clock (seconds) on the robot's, never ahead of it."""
        now = self.clock.now()
        return min(now, stamp - self.map.best(now)[0])

    def _send(self, message: dict[str, Any]) -> None:
        from websockets.exceptions import ConnectionClosed

        if not self.lost:
            try:
                self._main.send(packed(message))
                return
            except (ConnectionClosed, OSError) as error:
                self._lose(f"the connection to {self.options.address} has ended ({_words(error)})")
        raise RobotError(f"the {self.name} is lost: {self.lost}.")

    def _wait(self, condition: Any, seconds: float) -> None:
        with self._change:
            there = self._change.wait_for(lambda: condition() or self.lost, seconds)
        if condition():
            return
        if there:
            raise RobotError(f"the {self.name} is lost: {self.lost}.")
        raise RobotError(f"{self._url} has not answered within {seconds:g} s. Look at the host's log.")

    # ---------------------------------------------------------------------------------------------- hearing

    def _listen(self) -> None:
        from websockets.exceptions import ConnectionClosed

        hurry()
        try:
            while not self.lost:
                message = unpacked(self._main.recv(timeout=SILENT))
                now = self.clock.now()
                status = message.get("status")
                if (echo := message.get("echo")) is not None and status is not None:
                    self.map.heard(float(echo[0]), float(echo[1]), float(status["now"]), now)
                self._note(status)
                if "answer" in message:
                    with self._change:
                        self._answers[message["answer"]] = message
                        self._change.notify_all()
        except TimeoutError:
            self._lose(f"{self.options.address} was silent for {SILENT:g} s")
        except (ConnectionClosed, OSError) as error:
            self._lose(f"the connection to {self.options.address} has ended ({_words(error)})")
        except (WireError, KeyError, TypeError, ValueError) as error:
            self._lose(f"{self.options.address} has sent what cannot be read ({_words(error)})")

    def _beat(self) -> None:
        hurry()
        while not self.lost:
            with contextlib.suppress(RobotError):  # then it is lost, which `lost` says
                self._send({"beat": self.clock.now()})
            time.sleep(BEAT)

    def _note(self, status: Any) -> None:
        if status is None:
            return
        connected, enabled, stopped, fault = status["health"]
        health = Health(bool(connected), bool(enabled), bool(stopped), str(fault))
        late, late_by = int(status["late"]), float(status["late_by"])
        number, done = int(status["number"]), int(status["done"])
        found = Status(number, health, status["state"], done, late, late_by, time.monotonic())
        with self._change:
            before = self.status
            if before is None or number > before.number:
                if before is not None:  # what came late before there was this session is not ours
                    begun_again = late < before.late  # a person has let the device move again
                    self._late = late if begun_again else self._late + late - before.late
                self.status = found
            self._change.notify_all()

    def _is_mapped(self) -> bool:
        try:
            self.map.best(self.clock.now())
        except RobotError:
            return False
        return True

    def _lose(self, why: str) -> None:
        with self._change:
            self.lost = self.lost or why
            self._change.notify_all()
        for connection in (self._main, getattr(self, "_stop", None)):
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.close_socket()


class RemoteDevice:
    """What arms and grippers of another machine have in common."""

    def __init__(self, opening: Opening[RemoteOptions], latency: float, clock_error: float) -> None:
        """Nothing is connected yet; both times in seconds.

        Raises:
            ConfigError: the address is none of a host, or the lead is longer than the latency.
        """
        options = opening.options
        parts = urlsplit(options.address)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ConfigError(
                f"the {opening.name} has the address {options.address!r}, expected that of `rdt2 robot serve`: "
                "ws://192.168.0.5:8790."
            )
        if latency < options.lead:
            raise ConfigError(
                f"the {opening.name} has a latency of {latency:g} s and a lead of {options.lead:g} s: the lead is a "
                "part of the latency. Measure its latency as this machine sees it, or say a smaller lead."
            )
        self.name, self.timing = opening.name, Timing(latency, clock_error)
        self._opening, self._clock_error = opening, clock_error
        self._link: Link | None = None
        self._wanted = False  # enabled, as far as this side is concerned
        self._stops, self._counting = 0, threading.Lock()
        self._stamp, self._sequence = float("-inf"), -1

    def connect(self) -> None:
        """Reach the host and have it connect its device; nothing moves.

        Raises:
            RobotError: the host does not answer, or has another device than the robot's yaml says.
        """
        if self._link is not None and not self._link.lost:
            return
        link = Link(self.name, self._opening.options, self._opening.clock)
        try:
            self._compare(link.about)
            link.ask("connect")
            bound = link.map.best(self._opening.clock.now())[1]
        except BaseException:
            link.close()
            raise
        self._link, self._sequence = link, -1
        self.timing = Timing(self.timing.latency, self._clock_error + bound)

    def _compare(self, about: dict[str, Any]) -> None:
        """Raises RobotError where the host has another device than this side's settings say."""

    def enable(self) -> None:
        """Have the host enable its device.

        Raises:
            RobotError: it is not connected, or the host refuses.
        """
        self._held("is not connected. Call connect() first").ask("enable")
        self._wanted = True

    def health(self) -> Health:
        """What the host said last; a host that is lost is a fault."""
        link = self._link
        if link is None:
            return Health(False, False)
        if link.lost:
            return Health(False, False, True, f"the {self.name} is lost: {link.lost}")
        assert link.status is not None
        return link.status.health

    def stop(self) -> None:
        """Have the host stop its device, also one that is being recovered; does nothing else where there is none."""
        with self._counting:
            self._stops += 1
        if self._link is not None:
            self._link.stop()

    def recover(self) -> None:
        """Also reaches for a host that was lost, which has stopped the device, and enables one that was started again.

        Raises:
            RobotError: the host is not reached or refuses, or it was stopped again meanwhile.
        """
        stops = self._stops
        if self._link is not None and self._link.lost:
            self.connect()
        link = self._held("is not connected. Call connect() first")
        if self._stops == stops:
            link.ask("recover")
            assert link.status is not None
            if self._wanted and not link.status.health.enabled:
                link.ask("enable")
        if self._stops != stops:
            link.stop()  # the host may have heard of the stop before it heard of the recovery
            raise RobotError(
                f"the {self.name} was stopped again while it was being recovered, and stays stopped. When it is safe "
                "to move, recover() it once more."
            )

    def checks(self) -> list[Check]:
        """What the device can tell of how it is set up, as its host says it."""
        return [Check(*found) for found in self._held("is not connected. Call connect() first").ask("checks")]

    def close(self) -> None:
        """Have the host close its device, and let go of the host."""
        link, self._link, self._wanted = self._link, None, False
        if link is None:
            return
        try:
            if not link.lost:
                link.ask("close")
        finally:
            link.close()

    def _held(self, without: str) -> Link:
        if self._link is None:
            raise RobotError(f"the {self.name} {without}.")
        return self._link

    def _ready(self) -> Link:
        """Raises SafetyError unless it takes commands."""
        require_ready(self.name, self.health())
        assert self._link is not None
        return self._link

    def _measured(self) -> tuple[dict[str, Any], float, int]:
        """The last state, when it was measured on the robot's clock, and its number."""
        link = self._held("is not connected: call connect() first")
        if link.lost:
            raise RobotError(f"the {self.name} is lost: {link.lost}.")
        assert link.status is not None
        state = link.status.state
        if state is None:
            raise RobotError(f"the {self.name} has measured nothing yet: {link.status.health}.")
        sequence = int(state["sequence"])
        if sequence != self._sequence:  # one stamp each, however the map of the clocks is bettered
            self._stamp = max(self._stamp, link.here(float(state["timestamp"])))
            self._sequence = sequence
        return state, self._stamp, sequence


def _raise(told: Any) -> None:
    """An error that was told, as it was raised there."""
    if told is None:
        return
    kind = getattr(errors, str(told[0]), RobotError)
    raise (
        kind(str(told[1]))
        if isinstance(kind, type) and issubclass(kind, RDT2Error)
        else RobotError(str(told[1]))
    )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
