"""A policy on another machine: asks a server of `rdt2 serve`, and is a `Policy` itself.

    policy = load_policy("ws://gpu-machine:8000")      # a Client
    (chunk,) = policy.predict([observation], seed=0)

    async with AsyncClient("ws://gpu-machine:8000") as policy:
        (chunk,) = await policy.predict([observation])

A lost connection is made again, with growing pauses, and what was asked is asked once more. Torch is not imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import random
import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rdt2.action import ActionChunk, Promise
from rdt2.errors import ActionError, ConfigError, RDT2Error, ServingError, WireError
from rdt2.files import require_file
from rdt2.observation import Observation
from rdt2.policy import messages
from rdt2.policy.questions import checked_observations, checked_promises, checked_seeds
from rdt2.policy.spec import PolicySpec
from rdt2.wire import packed, unpacked

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)
CONNECT_SECONDS = 10.0
TIMEOUT = 60.0
ATTEMPT_SECONDS = 4.0
"""An attempt to connect that is not answered by then is made anew: a TLS proxy that hands out session tickets loses
one in fifty, where a ticket is read by one thread while another sends the first message."""
KEY_IN_CLEAR = (
    "the API key can be read by whoever is on the way. Serve with --tls-cert and --tls-key and ask wss://, or go "
    "through a tunnel: ssh -L"
)
_PAUSES = (0.05, 2.0)  # s between attempts: the first, and what they double up to
_TRY_AGAIN = (429, 502, 503, 504)
"""HTTP answers to a handshake that another attempt may change."""


class _Remote:
    """What both clients do but wait: addresses, what is sent, what an answer means."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        jpeg: bool = False,
        deadline: float | None = None,
        timeout: float = TIMEOUT,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        """
        Args:
            url: ws://host:port, or wss:// for a server with TLS.
            api_key: the server's; see `rdt2 serve --api-key-file`.
            jpeg: send pictures compressed: a tenth of the bytes and, from cameras' own pictures, the same chunk.
            deadline: seconds in which an answer is worth something; what the server cannot keep it refuses at once.
            timeout: seconds after which a question is given up.
            connect_seconds: for so long it is tried to reach the server, at first and after a lost connection.

        Raises:
            ConfigError: an address or a number that cannot be.
        """
        checked_address(url)
        limits = {"deadline": deadline, "timeout": timeout, "connect_seconds": connect_seconds}
        for name, value in limits.items():
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value}, expected seconds, more than 0.")
        self.url, self.jpeg, self.deadline = url, jpeg, deadline
        self.timeout, self.connect_seconds = timeout, connect_seconds
        headers = dict([messages.ACCEPT])
        if api_key is not None:
            headers["Authorization"] = f"Api-Key {api_key}"
        # Pictures hardly shrink, and compressing them takes many times what sending them does.
        self._options: Any = {
            "compression": None, "additional_headers": headers, "max_size": 4 * 2**20, "proxy": None
        }  # fmt: skip
        self.metadata: dict[str, Any] = {}

    @property
    def keeps_promises(self) -> bool:
        """As the policy of the server."""
        return bool(self.metadata.get("keeps_promises"))

    @property
    def longest_promise(self) -> int:
        """As the policy of the server."""
        return int(self.metadata.get("longest_promise") or 0)

    @property
    def patience(self) -> float | None:
        """As the policy of the server."""
        value = self.metadata.get("patience")
        return None if value is None else float(value)

    @property
    def model(self) -> dict[str, Any]:
        """What the server says of its policy: name, kind, draws, steps, digest of the normalizer and more."""
        return dict(self.metadata.get("model") or {})

    def _questions(
        self, observations: Any, seed: Any, promised: Any
    ) -> list[tuple[Observation, int | None, Promise | None]]:
        """One for each observation.

        Raises:
            ObservationError, ActionError: as every policy.
        """
        observations = checked_observations(observations)
        promises = checked_promises(promised, len(observations))
        if any(promises) and not self.keeps_promises:
            raise ActionError(
                f"the policy of {self.url} keeps no promises (keeps_promises is False): leave out promised=, and blend "
                "the plan being driven into the new chunk."
            )
        return list(zip(observations, checked_seeds(seed, len(observations)), promises, strict=True))

    def _packed(self, question: tuple[Observation, int | None, Promise | None], began: float) -> bytes:
        """The request, as it is sent now; its deadline runs since `began`."""
        observation, seed, promise = question
        left = None
        if self.deadline is not None:
            left = began + self.deadline - time.monotonic()
            if left <= 0:
                raise ServingError(
                    f"{self.url} was reached after the deadline of {self.deadline:g} s.", reason="late"
                )
        data = packed(
            messages.request(observation, seed=seed, promised=promise, deadline=left, jpeg=self.jpeg)
        )
        most = (self.metadata.get("limits") or {}).get("message_bytes")
        if most is not None and len(data) > most:
            raise ServingError(
                f"{self.url} takes messages of {most} bytes, this one has {len(data)}. Send JPEG (jpeg=True, "
                "--jpeg), or start the server with a larger --max-message-mb.",
                reason="refused",
            )
        return data

    def _chunk(self, answer: str | bytes, began: float) -> ActionChunk:
        """What was answered.

        Raises:
            ServingError, or what the policy raised there.
        """
        if isinstance(answer, str):
            raise messages.error_of(answer)
        chunk = messages.chunk_of(unpacked(answer))
        return dataclasses.replace(chunk, timing={**chunk.timing, "round_trip": time.monotonic() - began})

    def _greet(self, answer: str | bytes) -> None:
        """What a server says first.

        Raises:
            ServingError: it is not ours, or has another policy than before.
        """
        if isinstance(answer, str):
            raise messages.error_of(answer)
        try:
            found = messages.checked_metadata(unpacked(answer))
        except WireError as error:
            raise ServingError(f"{self.url} is no policy server: {error}", reason="unreachable") from error
        if self.metadata and found.get("model") != self.metadata.get("model"):
            raise ServingError(
                f"{self.url} has another policy than when this client was made: {found.get('model')} instead of "
                f"{self.model}. Make a new client if that is meant.",
                reason="changed",
            )
        self.metadata = found
        for name in ("steps", "draws", "temperature"):  # as the policies themselves have them
            if (value := self.model.get(name)) is not None:
                setattr(self, name, value)

    def _refused(self, error: Exception) -> ServingError | None:
        """What a failed attempt to connect means; None where another one may succeed."""
        from websockets.exceptions import InvalidHandshake, InvalidStatus

        if isinstance(error, ssl.SSLCertVerificationError):
            return ServingError(
                f"{self.url} shows a certificate that is not trusted here ({error.verify_message}). Ask for the server "
                "by a name that its certificate is for, and name the file of who signed it, or of itself, in the "
                "environment: SSL_CERT_FILE=cert.pem",
                reason="refused",
            )
        if isinstance(error, InvalidStatus):
            if error.response.status_code in _TRY_AGAIN:
                return None
            told = (error.response.body or b"").decode("utf-8", "replace").strip()
            return ServingError(
                f"{self.url} refuses the connection (HTTP {error.response.status_code}): {told:.300}",
                reason="refused",
            )
        if isinstance(error, InvalidHandshake):
            if isinstance(error.__cause__, (EOFError, OSError)):
                return None  # it went away in the middle
            return ServingError(f"{self.url} is no policy server: {error}", reason="unreachable")
        return None

    def _unreachable(self, error: Exception) -> ServingError:
        return ServingError(
            f"{self.url} could not be reached for {self.connect_seconds:g} s ({str(error) or type(error).__name__}). "
            "Is `rdt2 serve` running there, on this port, and with --host 0.0.0.0 for other machines?",
            reason="unreachable",
        )

    def _timed_out(self) -> ServingError:
        return ServingError(
            f"{self.url} has not answered for {self.timeout:g} s. Look at the log of the server.",
            reason="late",
        )

    def _lost(self, error: Exception) -> ServingError:
        return ServingError(
            f"{self.url} has closed the connection twice in one question ({error}). Look at the log of the server.",
            reason="unreachable",
        )


def _pauses(until: float) -> Any:
    """Seconds to wait between attempts, growing, each drawn so that many clients do not come at once."""
    pause, most = _PAUSES
    while time.monotonic() < until:
        yield min(pause * random.uniform(0.5, 1.0), max(0.0, until - time.monotonic()))
        pause = min(2 * pause, most)


class Client(_Remote):
    """The policy of a server, for whoever waits for answers. It may be asked from any thread, one question at a time.

    Close it, or use it in a `with` statement.

    Raises:
        ConfigError: an address that is none. ServingError: the server cannot be reached, or refuses.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._connection: Any = None
        self._open = contextlib.ExitStack()
        self._asking, self._closed = threading.Lock(), False
        self._connect(time.monotonic() + self.connect_seconds)

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """See :class:`rdt2.policy.Policy`. Raises what the policy raises there, or ServingError."""
        return [self._ask(question) for question in self._questions(observations, seed, promised)]

    def close(self) -> None:
        """Leave the server. Again: nothing happens."""
        self._closed = True
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, question: tuple[Observation, int | None, Promise | None]) -> ActionChunk:
        from websockets.exceptions import ConnectionClosed

        began = time.monotonic()
        until = began + self.timeout
        with self._asking:
            for last in (False, True):
                if self._closed:
                    raise ServingError("this client was closed. Make another one.", reason="unreachable")
                if self._connection is None:
                    self._connect(min(until, time.monotonic() + self.connect_seconds))
                connection, data = self._connection, self._packed(question, began)
                try:
                    connection.send(data)
                    answer = connection.recv(timeout=max(0.0, until - time.monotonic()))
                except TimeoutError:
                    self._drop()
                    raise self._timed_out() from None
                except (ConnectionClosed, OSError) as error:
                    self._drop()
                    if last:
                        raise self._lost(error) from error
                except BaseException:  # Ctrl-C: an answer that comes later would be taken for the next one's
                    self._drop()
                    raise
                else:
                    return self._chunk(answer, began)
        raise AssertionError("unreachable: the second attempt answers or raises")

    def _connect(self, until: float) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        failure: Exception = TimeoutError("no time was left")
        for pause in _pauses(until):
            left = max(0.1, min(ATTEMPT_SECONDS, until - time.monotonic()))
            with contextlib.ExitStack() as opening:
                try:
                    connection = opening.enter_context(connect(self.url, open_timeout=left, **self._options))
                    self._greet(connection.recv(timeout=left))
                    self._connection, self._open = connection, opening.pop_all()
                    return
                except (OSError, TimeoutError, WebSocketException, RDT2Error) as error:
                    refusal = error if isinstance(error, RDT2Error) else self._refused(error)
                    if refusal is not None:
                        raise refusal from error
                    failure = error
            time.sleep(pause)
        raise self._unreachable(failure) from failure

    def _drop(self) -> None:
        self._connection = None
        self._open.close()


class AsyncClient(_Remote):
    """The policy of a server, for programs that run on asyncio: as `Client`, awaited. It connects when it is entered
    or first asked; one question at a time, others wait."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._connection: Any = None
        self._asking = asyncio.Lock()

    async def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """See :class:`rdt2.policy.Policy`. Raises what the policy raises there, or ServingError."""
        async with self._asking:
            if not self.metadata:
                await self._connect(time.monotonic() + self.connect_seconds)
            return [await self._ask(question) for question in self._questions(observations, seed, promised)]

    async def close(self) -> None:
        """Leave the server; the next question connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        async with self._asking:
            await self._connect(time.monotonic() + self.connect_seconds)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, question: tuple[Observation, int | None, Promise | None]) -> ActionChunk:
        from websockets.exceptions import ConnectionClosed

        began = time.monotonic()
        until = began + self.timeout
        for last in (False, True):
            if self._connection is None:
                await self._connect(min(until, time.monotonic() + self.connect_seconds))
            data = self._packed(question, began)
            try:
                await self._connection.send(data)
                answer = await asyncio.wait_for(self._connection.recv(), max(0.0, until - time.monotonic()))
            except (asyncio.TimeoutError, TimeoutError):
                await self.close()
                raise self._timed_out() from None
            except (ConnectionClosed, OSError) as error:
                await self.close()
                if last:
                    raise self._lost(error) from error
            except BaseException:  # cancelled: an answer that comes later would be taken for the next one's
                await self.close()
                raise
            else:
                return self._chunk(answer, began)
        raise AssertionError("unreachable: the second attempt answers or raises")

    async def _connect(self, until: float) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        failure: Exception = TimeoutError("no time was left")
        for pause in _pauses(until):
            connection = None
            try:
                left = max(0.1, min(ATTEMPT_SECONDS, until - time.monotonic()))
                connection = await connect(self.url, open_timeout=left, **self._options)
                self._greet(await asyncio.wait_for(connection.recv(), left))
            except (OSError, asyncio.TimeoutError, WebSocketException, RDT2Error) as error:
                if connection is not None:
                    await connection.close()
                if (refusal := error if isinstance(error, RDT2Error) else self._refused(error)) is not None:
                    raise refusal from error
                failure = error
                await asyncio.sleep(pause)
            else:
                self._connection = connection
                return
        raise self._unreachable(failure) from failure


# ---------------------------------------------------------------------------------------------- by its name


def is_address(policy: str) -> bool:
    """Whether a policy's name is the address of a server."""
    return policy.lower().startswith(("ws://", "wss://"))


def is_loopback(host: str) -> bool:
    """Whether a server there is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def in_clear(url: str) -> bool:
    """Whether what is sent there can be read on the way."""
    return url.lower().startswith("ws://") and not is_loopback(urlsplit(url).hostname or "")


def checked_address(url: str) -> None:
    """Raises ConfigError for what is no ws://host:port."""
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
        good = good and not parts.username and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"{url!r} is no address of a policy server, expected ws://host:8000 or wss://host:8000."
        )


def open_client(spec: PolicySpec, **options: Any) -> Client:
    """The client that a spec names, with options of `Client` beside.

    Raises:
        ConfigError: options that the server decides. ServingError: it cannot be reached, or refuses.
    """
    usual = PolicySpec(policy=spec.policy, api_key_file=spec.api_key_file, jpeg=spec.jpeg)
    names = (each.name for each in dataclasses.fields(spec))
    set_here = [name for name in names if getattr(spec, name) != getattr(usual, name)]
    if set_here:
        raise ConfigError(
            f"{', '.join(set_here)}: the server {spec.policy} decides that. Leave it out here, and give it to "
            "`rdt2 serve`."
        )
    key = None if spec.api_key_file is None else read_key(spec.api_key_file)
    if key is not None and in_clear(spec.policy):
        log.warning("%s: %s", spec.policy, KEY_IN_CLEAR)
    return Client(spec.policy, api_key=key, jpeg=spec.jpeg, **options)


def read_key(path: str | Path) -> str:
    """The API key of a file: its one line.

    Raises:
        ConfigError: no such file, or one that holds no key that a header can carry.
    """
    file = require_file(
        Path(path).expanduser(),
        error=ConfigError,
        advice="Write a long random word into it: openssl rand -hex 32",
    )
    try:
        key = file.read_text(encoding="ascii").strip()
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            f"{file}: cannot be read as a key ({error}). Write one line of letters and digits."
        ) from error
    if not key or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{file}: expected a key of one line, letters and digits: openssl rand -hex 32 > {file}"
        )
    return key
