"""The Zhixing CTAG2F120: a parallel-jaw gripper with a travel of 0.12 m, on a serial bus of its own.

    gripper: {..., device: {type: zhixing, serial: "1638440", force: 30}}

One thread speaks with the bus: the newest width that is due, then the position, again and again. `execute` only stores,
`state` and `health` only look. On the real bus a width takes about 30 ms and a reading 16 ms: of 30 widths a second it
carries 21, with as many readings between them. What comes between two of them is left out, and the last is always
sent. "Reached" is not asked for: a finger that something stops is seen in the position, and nothing waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import TYPE_CHECKING, Any

from rdt2.devices.drivers import Driver, Found, Opening
from rdt2.devices.gripper_drivers._zhixing_bus import (
    CLOSED,
    FEEDBACK_CLOSED,
    BusError,
    PortError,
    ZhixingBus,
    serial_number_at,
    usb_ports,
)
from rdt2.devices.gripper_drivers._zhixing_options import ZhixingOptions
from rdt2.errors import ConfigError, RobotError
from rdt2.robot.device import BaseDevice, require_widths
from rdt2.robot.protocols import Check, GripperState, Health, Timing
from rdt2.robot.waypoints import WidthTrajectory
from rdt2.threads import hurry

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

PERIOD = 0.02
"""Seconds between two readings at least; the real bus takes longer."""
RETRY = 0.2
"""Seconds between two questions to a gripper that does not answer."""
ASKED = 30.0
"""Widths a second that a policy says."""
SPARSE = 0.1
"""Seconds between two widths beyond which a gripper cannot follow."""
MOVING = 0.005
"""Opening speed, m/s, below which fingers stand: in front of what they hold, perhaps."""
SETTLED = 0.15
"""Seconds after it was sent somewhere by which its fingers move, or stand for good."""
WAIT = 2.0
"""Seconds that a person's word (enable, recover, checks) waits for the bus, and that `close` waits for the fingers."""


class ZhixingGripper(BaseDevice):
    """The driver. Any thread may call it.

    Args:
        opening: what the robot's yaml says of it.

    Raises:
        ConfigError: a stroke beyond what it opens, or no travel.
    """

    def __init__(self, opening: Opening[ZhixingOptions]) -> None:
        settings, options = opening.gripper, opening.options
        super().__init__(opening.name, Timing(settings.latency, settings.clock_error))
        if not options.closed_width < options.open_width:
            raise ConfigError(
                f"the {self.name} has open_width {options.open_width:g} and closed_width {options.closed_width:g}, "
                "expected more open than closed, in metres."
            )
        if settings.stroke > options.open_width + 1e-6:
            raise ConfigError(
                f"the {self.name} has stroke {settings.stroke:g} m and open_width {options.open_width:g} m, expected a "
                "stroke that it opens. Measure how far its fingers open, and mend one of the two."
            )
        self.stroke = settings.stroke
        self._options, self._clock = options, opening.clock
        self._changed = threading.Condition()
        self._asked: list[tuple[Callable[[ZhixingBus], Any], Future[Any]]] = []
        self._path = WidthTrajectory(0.0)
        self._bus: ZhixingBus | None = None
        self._thread: threading.Thread | None = None
        self._ending = self._halting = False
        self._told: int | None = None
        """Where it was sent last; None where that is not known."""
        self._told_at = float("-inf")
        self._trouble = ""
        """What is wrong with the bus now."""
        self._cycles = 0
        """How often the bus has been gone over."""
        self._state: GripperState | None = None
        self._speed = 0.0

    # ------------------------------------------------------------------------------------------ widths and positions

    @property
    def _travel(self) -> float:
        return self._options.open_width - self._options.closed_width

    def position_of(self, width: float) -> int:
        """What to tell it for an opening in metres: 0 open to 12000 closed."""
        return min(max(round((self._options.open_width - width) / self._travel * CLOSED), 0), CLOSED)

    def width_of(self, position: int) -> float:
        """The opening in metres for what it was told."""
        return self._options.open_width - self._travel * position / CLOSED

    # ------------------------------------------------------------------------------------------------------ its life

    def connect(self) -> None:
        """Open the serial port and measure; nothing moves.

        Raises:
            RobotError: nothing answers there.
        """
        if not self._connected:
            self._open()
            super().connect()

    def _open(self) -> None:
        bus = open_bus(self.name, self._options)
        self._state = None
        try:
            self._read(bus)
        except BusError as error:
            bus.close()
            raise RobotError(f"{_words(self.name, error)}.") from error
        self._bus, self._ending, self._halting, self._told, self._speed = bus, False, False, None, 0.0
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, args=(bus,), name=self.name, daemon=True)
        self._thread.start()

    def enable(self) -> None:
        """Set the force; it moves with the next command."""
        with self._changed:
            ready = not self._connected or self._enabled
        if not ready:
            self._ask(lambda bus: bus.set_force(self._options.force))
        with self._changed:
            super().enable()

    def health(self) -> Health:
        """Whether it may be used, and why not."""
        with self._changed:
            return super().health()

    def state(self) -> GripperState:
        """The last measurement; the opening in metres.

        Raises:
            RobotError: it is not connected.
        """
        with self._changed:
            if not self._connected or self._state is None:
                raise RobotError(f"the {self.name} is not connected. Call connect() first.")
            return self._state

    def execute(self, times: Float[ndarray, " n"], widths: Float[ndarray, " n"]) -> None:
        """Follow widths in metres, at times of the robot's clock.

        Raises:
            SafetyError: it takes no command, the waypoints are no path, or it has no such width.
        """
        with self._changed:
            self.require_ready()
            now = self._clock.now()
            _, ahead = self._path.checked(times, widths, now=now)
            require_widths(self.name, ahead, self.stroke)
            self._path.execute(times, widths, now=now)
            self._heard = now

    def stop(self) -> None:
        """Hold it where it is; the thread on the bus tells it so."""
        with self._changed:
            super().stop()

    def _brake(self) -> None:
        self._halting = True  # by the bus's thread, from where the fingers are then
        self._changed.notify_all()

    def _rest(self) -> None:
        if not self._changed.wait_for(lambda: not self._halting and abs(self._speed) <= MOVING, WAIT):
            raise RobotError(f"the {self.name} is still coming to rest. Recover it when it stands.")
        assert self._state is not None
        if self._told is None:
            self._told = self.position_of(self._state.width)
        self._path.stay(self.width_of(self._told), now=self._clock.now())

    def recover(self) -> None:
        """Open the port again where it was lost, and set the force anew.

        Raises:
            RobotError: it still does not answer, or was stopped again meanwhile.
        """
        stops = self._stops
        if not self._stopped:
            return
        if self._bus is None:
            self._open()
        self._ask(lambda bus: bus.set_force(self._options.force))  # it may have been without power
        with self._changed:
            since = self._cycles
            self._changed.wait_for(
                lambda: self._cycles > since and (bool(self._trouble) or not self._halting), WAIT
            )
            if self._trouble:
                raise RobotError(f"{self._trouble}.")
            self._rest()
            self._resume(stops)

    def close(self) -> None:
        """Hold it where it is, end the thread, and close the port."""
        with self._changed:
            super().stop()
            self._changed.wait_for(lambda: not self._halting or self._bus is None or bool(self._fault), WAIT)
            self._ending = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(WAIT)
        with self._changed:
            super().close()

    def checks(self) -> list[Check]:
        """Its number, its force, and what its bus carries."""
        found: tuple[str, int] = self._ask(lambda bus: (bus.serial_number(), bus.force()))
        number, force = found
        options, bus = self._options, self._bus
        wanted = options.serial or number
        checks = [Check("serial number", options.serial or "any", number, number == wanted)]
        if self._enabled:
            checks.append(Check("force", f"{options.force} %", f"{force} %", force == options.force))
        if bus is not None and bus.read_seconds is not None:
            move = bus.move_seconds if bus.move_seconds is not None else 2 * bus.read_seconds
            period = max(move + bus.read_seconds, PERIOD)
            carried = min(1 / period, ASKED)
            checks.append(
                Check(
                    "bus",
                    f"a width every {1e3 * SPARSE:.0f} ms at least",
                    f"{1e3 * move:.0f} ms a width{'' if bus.move_seconds else ' (guessed: none sent yet)'}, "
                    f"{1e3 * bus.read_seconds:.0f} ms a reading: {carried:.0f} of a policy's {ASKED:.0f} widths a "
                    "second are sent, the newest, and always the last",
                    period <= SPARSE,
                )
            )
        return checks

    # -------------------------------------------------------------------------------------------------- on the bus

    def _ask(self, question: Callable[[ZhixingBus], Any]) -> Any:
        """Have the bus's thread do something before all else.

        Raises:
            RobotError: nothing sound came back, or nothing in time.
        """
        answer: Future[Any] = Future()
        with self._changed:
            if self._bus is None:
                raise RobotError(
                    f"the {self.name} has no connection: {self._fault or 'call connect() first'}."
                )
            self._asked.append((question, answer))
            self._changed.notify_all()
        try:
            return answer.result(WAIT)
        except BusError as error:
            raise RobotError(f"{_words(self.name, error)}.") from error
        except NoAnswer as error:
            raise RobotError(f"the {self.name} has not answered within {WAIT:g} s. {ADVICE}.") from error

    def _run(self, bus: ZhixingBus) -> None:
        """The bus's thread: until it is closed or its port is gone."""
        hurry()  # it waits for answers nearly all of its time
        pause = 0.0
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._ending or bool(self._asked), pause)
                    if self._ending:
                        return
                began = time.monotonic()
                try:
                    self._cycle(bus)
                    pause = max(PERIOD - (time.monotonic() - began), 0.0)
                except PortError as error:
                    self._lose(error)
                    return
                except BusError as error:
                    self._lose(error)
                    pause = RETRY
        except (
            Exception
        ) as error:  # whatever it is: nobody speaks with the gripper any more, and a person must know
            self._lose(error)
        finally:
            bus.close()
            with self._changed:
                self._bus = None
                for _, answer in self._asked:
                    answer.set_exception(BusError(self._fault or "it is being closed"))
                self._asked.clear()
                self._changed.notify_all()

    def _lose(self, error: Exception) -> None:
        with self._changed:
            self._cycles += 1
            self._told, self._trouble = None, _words(self.name, error)
            self._fault = self._fault or self._trouble
            if not self._stopped:  # said again at each try, it is no other stop for who recovers the gripper
                self.stop()
            self._changed.notify_all()

    def _cycle(self, bus: ZhixingBus) -> None:
        """What a person asks for, then the width that is due, then where the fingers are."""
        with self._changed:
            asked, self._asked = self._asked, []
        for question, answer in asked:
            try:
                answer.set_result(question(bus))
            except Exception as error:
                answer.set_exception(error)
                if isinstance(error, PortError):
                    raise
        with self._changed:
            now = self._clock.now()
            self.watch(now, until=self._path.end[0])
            target = None if self._stopped or not self._enabled else self.position_of(self._path.at(now))
        if target is not None:
            self._tell(bus, target)
        self._read(bus)
        with self._changed:
            self._trouble, halting = "", self._halting
        if halting:
            self._halt(bus)
        with self._changed:
            self._cycles += 1
            self._changed.notify_all()

    def _tell(self, bus: ZhixingBus, target: int) -> None:
        if target == self._told:
            return
        bus.move(target)
        with self._changed:
            self._told, self._told_at = target, self._clock.now()

    def _read(self, bus: ZhixingBus) -> None:
        began = self._clock.now()
        fed_back = bus.position()
        ended = self._clock.now()
        latency = self._options.observation_latency
        stamp = (began + ended) / 2 if latency is None else ended - latency
        width = max(self._options.open_width - self._travel * fed_back / FEEDBACK_CLOSED, 0.0)
        with self._changed:
            before = self._state
            if before is None or stamp > before.timestamp:
                if before is not None:
                    self._speed = (width - before.width) / (stamp - before.timestamp)
                self._state = GripperState(stamp, 0 if before is None else before.sequence + 1, width)

    def _halt(self, bus: ZhixingBus) -> None:
        """Come to rest. Fingers that stand stay as they were told: what they hold they go on holding."""
        assert self._state is not None
        now = self._clock.now()
        moves = abs(self._speed) > MOVING
        if not moves and now - self._told_at < SETTLED:
            return  # they may be about to move: look again
        if moves and self._told is not None:
            late = now - self._state.timestamp + (bus.move_seconds or 0.0)
            ahead, goal = self._state.width + self._speed * late, self.width_of(self._told)
            # not beyond where they were going
            self._tell(bus, self.position_of(max(ahead, goal) if self._speed < 0 else min(ahead, goal)))
        with self._changed:
            self._halting = False


ADVICE = (
    "See that it has power (24 V) and that its cable is in, then recover() it; until then it goes on to the width that "
    "it was sent last, and holds it"
)


def _words(name: str, error: Exception) -> str:
    if isinstance(error, BusError):
        return f"the {name} does not answer: {error}. {ADVICE}"
    return (
        f"the {name}'s driver failed ({type(error).__name__}: {error}). Close the robot and connect it anew"
    )


def open_bus(name: str, options: ZhixingOptions) -> ZhixingBus:
    """The bus of the gripper that the options mean.

    Raises:
        RobotError: it is not there; says what is.
    """
    port = options.port or _port_of(name, options)
    try:
        bus = ZhixingBus(port, slave=options.slave, answer=options.answer)
    except PortError as error:
        raise RobotError(f"the {name} cannot be connected: {error}.") from error
    try:
        number = bus.serial_number()
    except BusError as error:
        bus.close()
        raise RobotError(
            f"the {name} does not answer: {error}. See that it has power (24 V), that it is slave {options.slave}, and "
            "that A and B of its cable are not swapped."
        ) from error
    if options.serial and number != options.serial:
        bus.close()
        raise RobotError(
            f"the gripper at {port} has the serial number {number}, expected {options.serial} as the {name}. Leave the "
            "port out of the yaml to have it looked for, or mend the serial number."
        )
    return bus


def _port_of(name: str, options: ZhixingOptions) -> str:
    said = {port: _number(port, options.slave) for port in usb_ports()}
    numbers = {port: number for port, number in said.items() if number.isdigit()}
    matching = [port for port, number in numbers.items() if options.serial in ("", number)]
    if len(matching) == 1:
        return matching[0]
    wanted = f"serial number {options.serial}" if options.serial else "any serial number"
    if matching:
        raise RobotError(
            f"{len(matching)} grippers could be the {name}: {_listed(numbers)}. Write the serial number of one under "
            "device:."
        )
    raise RobotError(
        f"no Zhixing gripper with {wanted} was found for the {name}: {_listed(said) or 'there is no USB serial port'}. "
        "See that its adapter is plugged in and that it has power (24 V)."
    )


def _number(port: str, slave: int) -> str:
    try:
        return serial_number_at(port, slave=slave)
    except BusError as error:
        return f"none ({error})"


def _listed(said: dict[str, str]) -> str:
    return ", ".join(f"{port} has {number}" for port, number in said.items())


def find() -> list[Found]:
    """Grippers at the USB adapters of this machine, as slave 1."""
    said = {port: _number(port, 1) for port in usb_ports()}
    return [
        Found({"serial": number}, f"CTAG2F120 at {port}") for port, number in said.items() if number.isdigit()
    ]


DRIVER = Driver(open=ZhixingGripper, options=ZhixingOptions, extra="zhixing", find=find)
