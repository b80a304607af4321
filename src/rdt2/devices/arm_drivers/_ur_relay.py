"""Between ur_rtde and a UR controller: passes bytes on, in a process of its own, and lets nobody connect twice.

    python _ur_relay.py CONTROLLER          says the address of this machine at which it listens

A connection of RTDE that ends makes ur_rtde connect again by itself, each time with one more thread that reads the same
socket, until the process crashes. So nobody listens here any more once a connection of RTDE has ended: the library's
attempts are refused, and a person's word (`recover`) begins with another relay. It ends with its last connection, and
so with the process that started it, however that ends. It imports nothing of rdt2: it is there at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

RTDE, OTHERS = 30004, (30003, 29999)
REACHED = 5.0
"""Seconds in which the controller has to answer."""
TRIES = 20
FIRST = 30.0
"""Seconds in which somebody has to connect."""


class Relay:
    """Listens at an address of this machine that nobody else has.

    Each direction of each connection has a thread of its own: a real controller tells more on the port of scripts than
    ur_rtde ever reads there, and who waits for that to be taken must not keep others waiting.

    Args:
        controller: address of the controller.
    """

    def __init__(self, controller: str) -> None:
        self.controller = controller
        self.address, self._servers = _listening()
        self._changed = threading.Condition()
        self._connections, self._refuses = 0, False

    def run(self) -> None:
        """Until the last connection has ended."""
        for port, server in self._servers.items():
            threading.Thread(target=self._accept, args=(server, port), daemon=True).start()
        with self._changed:
            while self._changed.wait_for(lambda: self._connections > 0, 0 if self._refuses else FIRST):
                self._changed.wait_for(lambda: self._connections == 0)

    def _accept(self, server: socket.socket, port: int) -> None:
        while True:
            try:
                here, _ = server.accept()
            except OSError:  # nobody is let in any more
                return
            try:
                there = socket.create_connection((self.controller, port), timeout=REACHED)
            except OSError:
                here.close()
                continue
            with self._changed:
                self._connections += 1
                self._changed.notify_all()
            threading.Thread(target=self._connect, args=(here, there, port), daemon=True).start()

    def _connect(self, here: socket.socket, there: socket.socket, port: int) -> None:
        """Pass on what either end says, until one has ended."""
        for end in (here, there):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=self._pass_on, args=(there, here, port), daemon=True)
        back.start()
        self._pass_on(here, there, port)
        back.join()
        here.close()
        there.close()
        with self._changed:
            self._connections -= 1
            self._changed.notify_all()

    def _pass_on(self, source: socket.socket, target: socket.socket, port: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        if port == RTDE:  # before the library can notice, and connect again
            self._refuses = True
            for server in self._servers.values():
                _end(server)
                server.close()
        _end(source)
        _end(target)


def _end(end: socket.socket) -> None:
    """Whoever waits at it, or listens, is woken."""
    with contextlib.suppress(OSError):  # it has ended by itself
        end.shutdown(socket.SHUT_RDWR)


def _listening() -> tuple[str, dict[int, socket.socket]]:
    for _ in range(TRIES):
        address = "127." + ".".join(str(1 + byte % 254) for byte in os.urandom(3))
        with contextlib.ExitStack() as stack:
            try:
                servers = {
                    p: stack.enter_context(socket.create_server((address, p))) for p in (RTDE, *OTHERS)
                }
            except OSError:
                continue
            stack.pop_all()
            return address, servers
    raise SystemExit("no address of this machine (127.x.y.z) is free for the ports of a UR controller.")


if __name__ == "__main__":
    with contextlib.suppress(OSError, AttributeError):  # as the thread that drives the arm
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    relay = Relay(sys.argv[1])
    print(relay.address, flush=True)
    relay.run()
