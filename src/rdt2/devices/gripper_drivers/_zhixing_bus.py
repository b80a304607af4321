"""The bus of a Zhixing gripper: Modbus RTU, one question at a time, each answered within a limit or an error.

Registers, as published: position 0x0102 (two registers, the high one first; 0 open to 12000 closed), force 0x0105,
trigger 0x0108 (1: go there), position feedback 0x0609 (two registers; 0 open to 3000 closed; beyond 10000 it is below
zero, which is open), serial number 0x0810 (two registers). On the real bus a move, position and trigger, takes about
30 ms, and a question about 16 ms.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from rdt2.errors import RobotError

BAUD = 115200
POSITION, FORCE, TRIGGER, FEEDBACK, SERIAL = 0x0102, 0x0105, 0x0108, 0x0609, 0x0810
CLOSED, FEEDBACK_CLOSED = 12000, 3000
"""Position told, and position fed back, of a closed gripper; of an open one both are 0."""
WRITE_SECONDS = 1.0
"""Far more than a write takes, which finds the port's buffer emptied: a process that lost its turn is no fault."""
BEYOND = 60
"""Fed back by which a gripper may be more than closed: 2 % of its travel."""
WRAPPED = 10000
"""What is fed back beyond this is a negative number: open."""
PATIENCE = 0.1
"""Seconds after which a question without a sound answer, though asked again, is given up."""
FIRST_PATIENCE = 0.5
"""The same, while nothing hurries: it may have been switched on just now."""
SHARE = 0.2
"""Of the newest duration in the running mean."""
LATELY = 20
"""Readings that tell how fast the bus is."""

T = TypeVar("T")


class BusError(RobotError):
    """Nothing sound came back."""


class PortError(BusError):
    """The port itself is gone, or cannot be opened."""


class ZhixingBus:
    """One gripper at a port of its own. Used by one thread at a time.

    Args:
        port: "/dev/ttyUSB0", "COM3", or what else pyserial opens.
        slave: its number on the bus.
        answer: seconds within which an answer comes.

    Raises:
        PortError: the port cannot be opened. RobotError: the libraries are not installed.
    """

    def __init__(self, port: str, *, slave: int, answer: float) -> None:
        minimalmodbus, serial = _libraries()
        self.port, self._answer = port, answer
        try:
            self._serial = serial.serial_for_url(
                port, baudrate=BAUD, timeout=answer, write_timeout=WRITE_SECONDS, exclusive=True
            )
        except Exception as error:  # serial.SerialException, and termios.error where this is no serial port
            raise PortError(_why_not(port, error)) from error
        self._modbus = minimalmodbus.Instrument(self._serial, slave)
        self._odd: type[Exception] = minimalmodbus.ModbusException
        self._silent = (minimalmodbus.NoResponseError, serial.SerialTimeoutException)
        self.move_seconds: float | None = None
        """What a move takes lately, mean."""
        self._readings: deque[float] = deque(maxlen=LATELY)
        self._owes = 0.0
        """Until when an answer may still come that was not waited for, on the monotonic clock."""

    def move(self, position: int) -> None:
        """Go to a position (0 open to 12000 closed), which replaces the one before. Not waited for.

        Raises:
            BusError: it was not confirmed; it may have been heard all the same.
        """
        began = time.monotonic()
        self._ask(lambda: self._modbus.write_long(POSITION, position))
        self._ask(lambda: self._modbus.write_register(TRIGGER, 1, functioncode=6))
        self.move_seconds = _mean(self.move_seconds, time.monotonic() - began)

    def set_force(self, force: int) -> None:
        """Raises: BusError."""
        self._ask(lambda: self._modbus.write_register(FORCE, force, functioncode=6))

    def force(self) -> int:
        """Raises: BusError."""
        return self._read(lambda: self._modbus.read_register(FORCE))

    def position(self) -> int:
        """As fed back: 0 open to 3000 closed.

        Raises:
            BusError: no answer, or one that is no position of this gripper.
        """

        def asked() -> int:
            value = int(self._modbus.read_long(FEEDBACK))
            if value > WRAPPED:
                return 0
            if value > FEEDBACK_CLOSED + BEYOND:
                raise self._odd(f"it is at position {value}, expected 0 (open) to {FEEDBACK_CLOSED} (closed)")
            return min(value, FEEDBACK_CLOSED)

        began = time.monotonic()
        value = self._read(asked)
        self._readings.append(time.monotonic() - began)
        return value

    @property
    def read_seconds(self) -> float | None:
        """What reading the position took at best, lately: the others waited for this machine, not for the bus."""
        return min(self._readings, default=None)

    def serial_number(self, *, patience: float = FIRST_PATIENCE) -> str:
        """Raises: BusError."""
        return str(self._read(lambda: self._modbus.read_long(SERIAL), patience=patience))

    def close(self) -> None:
        """Again: nothing happens."""
        self._serial.close()

    def _ask(self, question: Callable[[], T], *, patience: float = PATIENCE) -> T:
        """Once more and again while there is time for it: what disturbs a single message is no fault."""
        began = time.monotonic()
        tries, silent = 0, False
        while True:
            tries += 1
            try:
                answer = question()
                if silent:  # if this was to the first question, another one comes after as long again
                    self._owes = 2 * time.monotonic() - began
                return answer
            except (self._odd, *self._silent) as error:
                silent = silent or isinstance(error, self._silent)
                spent = time.monotonic() - began
                if tries >= 2 and spent + min(self._answer, patience / 2) > patience:
                    self._owes = time.monotonic() + spent
                    words = str(error).partition(" The response")[0].rstrip(" .")
                    said = "nothing" if isinstance(error, self._silent) else f"what is no answer ({words})"
                    raise BusError(
                        f"{self.port} gave {said} for {1e3 * spent:.0f} ms, asked {tries} times"
                    ) from error
            except (
                Exception
            ) as error:  # serial.SerialException, and termios.error of a port that was unplugged
                raise PortError(f"{self.port} is gone ({error})") from error

    def _read(self, question: Callable[[], int], *, patience: float = PATIENCE) -> int:
        """Ask for a number. An answer of Modbus does not say of what: one that comes late, when the question has
        been asked again, must not be taken for that to the next question. So answers that are owed are waited for, and
        forgotten. What is written waits for nothing: its confirmation says of what.
        """
        if (left := self._owes - time.monotonic()) > 0:
            time.sleep(left)
            try:
                self._serial.reset_input_buffer()
            except Exception as error:  # as above: the port was unplugged
                raise PortError(f"{self.port} is gone ({error})") from error
        self._owes = 0.0
        return int(self._ask(question, patience=patience))


def usb_ports() -> list[str]:
    """Serial ports of USB adapters on this machine."""
    _libraries()
    from serial.tools import list_ports

    return sorted(place.device for place in list_ports.comports() if place.vid is not None)


def serial_number_at(port: str, *, slave: int) -> str:
    """What a gripper at a port says of itself; the port is closed again in any case.

    Raises:
        BusError: there is none, or the port cannot be opened.
    """
    bus = ZhixingBus(port, slave=slave, answer=PATIENCE)
    try:
        return bus.serial_number(patience=PATIENCE)
    finally:
        bus.close()


def _mean(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + SHARE * (seconds - before)


def _libraries() -> tuple[Any, Any]:
    try:
        import minimalmodbus
        import serial
    except ImportError as error:
        raise RobotError(
            f"a Zhixing gripper is spoken to with minimalmodbus and pyserial, and {error.name} is not installed. Run "
            "pip install 'rdt2[zhixing]'."
        ) from error
    return minimalmodbus, serial


def _why_not(port: str, error: Exception) -> str:
    if os.path.isabs(port) and not os.path.exists(port):
        return f"there is no port {port}. Is the adapter plugged in? `ls /dev/ttyUSB*` shows those there are"
    if os.path.isabs(port) and not os.access(port, os.R_OK | os.W_OK):
        return f"{port} may not be opened by you. Run `sudo usermod -aG dialout $USER`, and log in again"
    return f"{port} cannot be opened ({error}): expected a serial port that no other program uses"
