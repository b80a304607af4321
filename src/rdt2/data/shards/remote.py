"""Shards by URL: found, listed and read through fsspec (http, s3, gs, memory, ...)."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from rdt2.data.shards.reading import (
    INSTRUCTION_FILES,
    find_shards,
    parse_instructions,
    pick_shards,
    read_instructions,
)
from rdt2.data.shards.signed import read_signed
from rdt2.errors import ConfigError, ShardError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_TRIES, _MORE_TRIES = 4, 10
"""How often a server is asked: one that never answered, and one that did and may come back."""
_WAIT_S = 0.25
"""Before the second try; doubled before each further one: a good two minutes in all."""
_S3 = (
    "Credentials are those of AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (FSSPEC_S3_ANON=true reads "
    "public buckets without any); AWS_ENDPOINT_URL names a service that is not Amazon's, AWS_DEFAULT_REGION the region."
)


class Unreachable(ShardError):
    """Nothing is known of a file by URL: its server did not let it be read, which says nothing of what is in it."""


class Absent(Unreachable):
    """There is no such file."""


class Forbidden(Unreachable):
    """Not for these credentials. S3 says so of files that are not there, too, where a bucket may not be listed."""


class NoAnswer(Unreachable):
    """A server that broke off, or said nothing, as often as it was asked."""


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL and no path."""
    return re.match(r"^[a-z][a-z0-9+.-]*://", str(location)) is not None


def expand_locations(locations: str | Path | Iterable[str | Path]) -> list[str]:
    """The tars of folders, tars and URLs, in order, as paths or URLs.

    A URL is a tar, a folder its server can list, or a range of tars: ``https://host/shard-{000000..000044}.tar``.

    Raises:
        ShardError: there are none, or the server does not answer.
    """
    locations = [locations] if isinstance(locations, (str, Path)) else locations
    found: list[str] = []
    for location in locations:
        if not is_url(location):
            # A name with braces in it may be there as it is written.
            given = [location] if Path(location).exists() else _ranges(str(location))
            found += map(str, find_shards(given))
            continue
        for url in _ranges(str(location)):
            found += [url] if re.search(r"\.(tar(\.\w+)?|t[gbx]z2?)$", url) else _listing(url)
    return found


def instructions_beside(shard: str) -> dict[str, str]:
    """The instruction table in the folder of a tar, on disk or remote.

    Raises:
        ShardError: there is none, it is damaged, or its server does not let it be read.
    """
    table = find_instructions(shard)
    if table is None:
        raise ShardError(
            f"{shard}: neither {' nor '.join(INSTRUCTION_FILES)} is beside it. Write one ({{key: sentence}})."
        )
    return table


def find_instructions(shard: str) -> dict[str, str] | None:
    """As :func:`instructions_beside`, but None where there is none."""
    if not is_url(shard):
        return read_instructions(shard)
    forbidden = None
    for name in INSTRUCTION_FILES:
        place = f"{shard.rpartition('/')[0]}/{name}"
        try:
            return parse_instructions(read_url(place), where=place)
        except Absent:
            continue
        except Forbidden as error:
            forbidden = error
    if forbidden is not None:
        raise forbidden
    return None


def filesystem_of(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Raises ConfigError where there is no way to read it."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: no way to read it ({error}). Install the extra: pip install 'rdt2[remote]'."
        ) from None
    _used.setdefault(id(filesystem), filesystem)
    return filesystem, path


_used: dict[int, Any] = {}
"""File systems that are never let go of: a loader process, made by fork, would close their connections, and the loop
that both processes wait on would then hear nothing any more in the process that trains."""


def read_url(url: str, begin: int = 0, end: int | None = None) -> bytes:
    """A range of a file by URL, whole without ``end``; shorter only where the file ends before.

    Raises:
        Unreachable: no such file, no permission, or a server that did not answer as often as it was asked.
        ShardError: a server that knows no ranges.
    """
    return _persistently(url, lambda: _fetch(url, begin, end))


def size_of_url(url: str) -> int:
    """Bytes of a file by URL. Raises Unreachable; ShardError where its server does not say."""

    def ask() -> int | None:
        filesystem, path = filesystem_of(url)
        size: int | None = filesystem.info(path)["size"]
        return size

    size = _persistently(url, ask)
    if size is None:
        raise ShardError(f"{url}: its server does not say how many bytes it has (Content-Length). {_SERVE}")
    return size


_SERVE = "Serve the shards with one that does, such as nginx, or copy them."


def _fetch(url: str, begin: int, end: int | None) -> bytes:
    if end is None:
        filesystem, path = filesystem_of(url)
        whole: bytes = filesystem.cat_file(path)
        return whole
    data = read_signed(url, begin, end, lambda seconds: _sign(url, seconds)) if _in_s3(url) else None
    if data is None:
        filesystem, path = filesystem_of(url)
        data = filesystem.cat_file(path, start=begin, end=end)
    if len(data) > end - begin:
        raise ShardError(
            f"{url}: its server gives whole files only, no parts of them (HTTP ranges). {_SERVE}"
        )
    return data


def _in_s3(url: str) -> bool:
    return url.startswith("s3://")


def _sign(url: str, seconds: int) -> str:
    """The https address at which a file in S3 is read for so long."""
    filesystem, path = filesystem_of(url)
    address: str = filesystem.sign(path, expiration=seconds)
    return address


def _persistently(url: str, ask: Callable[[], _T]) -> _T:
    """Ask a server until it answers. Raises Unreachable when it refuses, or never does; ShardError as ``ask``."""
    server = re.match(r"[^/]*//[^/]*", url)[0]  # type: ignore[index]
    tries = _MORE_TRIES if server in _answered else _TRIES
    for attempt in range(tries):
        try:
            answer = ask()
        except ShardError:
            raise
        except Exception as error:  # each file system raises its own: aiohttp's, botocore's, ...
            if (refused := _refusal(url, error)) is not None:
                raise refused from None
            if attempt == tries - 1:
                raise NoAnswer(
                    f"{url}: its server did not answer, or broke off, {tries} times ({words_of(error)}). Look at the "
                    "network, the server and the address."
                ) from None
            if attempt == _TRIES and server not in _waited_for:
                _waited_for.add(server)
                _log.warning("%s does not answer (%s); waiting for it", server, words_of(error))
            time.sleep(_WAIT_S * 2**attempt)
        else:
            _answered.add(server)
            _waited_for.discard(server)
            return answer
    raise AssertionError("the last try returns or raises")


_answered, _waited_for = set[str](), set[str]()
"""Servers (buckets) that ever answered, and those that stopped and were told of."""


def _refusal(url: str, error: Exception) -> Unreachable | None:
    """What a server refuses for good, in words; None for what may pass, such as a connection that broke."""
    status, words = _status(error), words_of(error)
    bucket = url.split("/")[2] if _in_s3(url) else None
    if status == 404 and bucket and "bucket does not exist" in words:
        return Unreachable(f"{url}: there is no bucket {bucket!r} ({words}). Look at its name. {_S3}")
    if status == 404:
        return Absent(f"{url}: there is no such file. Look at the address.")
    if bucket and (status in (401, 403) or _of_settings(error)):
        return Forbidden(f"{url}: bucket {bucket!r} does not let you read it ({words}). {_S3}")
    if status in (401, 403):
        return Forbidden(
            f"{url}: no permission to read it ({words}). What has to be sent along, such as an Authorization header, "
            "is told to fsspec: see 'Configuration' in its documentation."
        )
    if status is not None and 300 <= status < 500 and status not in (408, 425, 429):
        return Unreachable(
            f"{url}: its server refuses ({words}). {_S3 if bucket else 'Look at the address.'}"
        )
    return None


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error of a file system; None where there was no answer."""
    cause = error.__cause__ or error
    response = getattr(cause, "response", None)  # botocore's
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if (status := getattr(cause, "status", None)) is not None:  # aiohttp's
        return int(status)
    if cause is not error and type(cause).__module__.startswith("aiohttp"):
        return None  # fsspec says "not found" of a server that does not answer
    return next((code for kind, code in _OF_SYSTEM.items() if isinstance(error, kind)), None)


_OF_SYSTEM: dict[type[Exception], int] = {FileNotFoundError: 404, PermissionError: 403}


def _of_settings(error: Exception) -> bool:
    """Whether botocore could not even ask: no credentials, no such profile, ..."""
    if not type(error).__module__.startswith("botocore"):
        return False
    from botocore import exceptions

    passing = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)
    return isinstance(error, exceptions.BotoCoreError) and not isinstance(error, passing)


def _listing(url: str) -> list[str]:
    filesystem, path = filesystem_of(url)
    pattern = f"{path.rstrip('/')}/*"
    try:
        names = _persistently(url, lambda: filesystem.glob(pattern))
    except Unreachable as error:
        raise type(error)(
            f"{error} Where a folder may not be listed, give the tars' own addresses."
        ) from None
    listed = {name.rpartition("/")[2]: name for name in names}
    found = [listed[name] for name in pick_shards(listed, url)]
    if not found:
        if _in_s3(url):
            with contextlib.suppress(Absent):
                read_url(url)  # a bucket that is not there has an empty list, too
        raise ShardError(
            f"{url}: holds no *.tar that its server lists. Look at the address, or give the tars' own ones."
        )
    return [filesystem.unstrip_protocol(name) for name in found]


def _ranges(url: str) -> list[str]:
    """``a{00..02}b`` as a00b, a01b, a02b."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", url)
    if match is None:
        return [url]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= 1_000_000:
        raise ConfigError(f"{url}: {{{first}..{last}}} is an empty or absurd range.")
    head, tail = url[: match.start()], url[match.end() :]
    return [each for n in numbers for each in _ranges(f"{head}{n:0{len(first)}d}{tail}")]


def words_of(error: Exception) -> str:
    """An error of a file system in words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
