"""Files and folders that are whole or not there, readable by whom the user's umask says, and what stands in the way
said in words.

    with whole_file("result.json") as partial:      # renamed to result.json when the block ends well
        partial.write_text("{}")
    with whole_folder("runs/model") as partial:     # the same of a folder
        model.save_pretrained(partial)
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdt2.errors import CheckpointError, RDT2Error, RecordingError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_INSTEAD = (
    (LFS_POINTER, "a pointer of Git LFS, not the file itself: run 'git lfs pull' in its folder"),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself: run 'git annex get' with its name"),
    (b"\x00\x05\x16\x07", "a shadow file that macOS writes beside the real one: delete it"),
    (b"<!doctype html", "a web page that was saved in its place: download the file again"),
    (b"<html", "a web page that was saved in its place: download the file again"),
)
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")
_NO_CONTENT = {".partial", "lost+found"}  # of a folder that is empty all the same


# ------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def whole_file(
    path: str | Path, *, error: type[RDT2Error] = RecordingError, advice: str = ""
) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place when the block ends well and is removed otherwise.

    Missing folders are made. A link stays one: what it points to is replaced. Pipes and devices (``/dev/stdout``)
    are written to when all is there.

    Args:
        path: the file.
        error: raised, with ``path`` and the reason, where the system refuses to write.
        advice: a sentence more in its message.
    """
    target = Path(path).expanduser().absolute()
    with _told(target, error, advice):
        stream = _is_stream(target)
        target = target.resolve() if target.is_symlink() and not stream else target
        folder = Path(tempfile.gettempdir()) if stream else target.parent
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{target.name}.{os.getpid()}.partial"
        try:
            partial.touch()
            mode = (
                partial.stat().st_mode
            )  # as the umask has it; some libraries write files that only we may read
            yield partial
            if stream:
                with target.open("wb") as opened:
                    opened.write(partial.read_bytes())
                return
            partial.chmod(mode)
            finish_file(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def partial_file(path: Path) -> Path:
    """Where a file is written before :func:`finish_file` gives it its name, where the steps are far apart.

    It is the same for every process: one that was killed leaves nothing that the next does not write over.
    """
    return path.with_name(f".{path.name}.partial")


def finish_file(partial: Path, path: Path) -> None:
    """Give a file that lies beside ``path`` its name, when all of it is on the disk. Raises OSError."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(partial, path)


def set_aside(folder: Path, name: str) -> Path:
    """Give a folder another name beside its own, in the place of what had that; the new path. Raises OSError."""
    aside = folder.with_name(name)
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def write_whole(
    path: str | Path, content: str | bytes, *, error: type[RDT2Error] = RecordingError, advice: str = ""
) -> Path:
    """Write text (UTF-8) or bytes as :func:`whole_file` does; returns the absolute path."""
    with whole_file(path, error=error, advice=advice) as partial:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path).expanduser().absolute()


def write_json(path: str | Path, values: Any) -> Path:
    """Write plain values as JSON (see `as_json`), atomically.

    Raises:
        RecordingError: the folder cannot be made or written, or the disk is full.
    """
    return write_whole(path, as_json(values))


def as_json(values: Any) -> str:
    """Plain values as JSON, with a line break at the end. NaN and infinity become null."""
    return json.dumps(plain(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Containers, numpy numbers and paths as JSON can hold them; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def whole_folder(
    path: str | Path,
    *,
    replace: bool = False,
    error: type[RDT2Error] = RecordingError,
    advice: str = "",
) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``path`` when the block ends well and is removed otherwise.

    Args:
        path: a folder that is empty or not there; it may be a mount point or reached by a link.
        replace: it may hold something, which then is removed.
        error, advice: as for :func:`whole_file`.
    """
    with _told(Path(path), error, advice):
        partial = begin_folder(path, replace=replace, error=error)
        try:
            yield partial
            finish_folder(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def begin_folder(path: str | Path, *, replace: bool = False, error: type[RDT2Error] = RecordingError) -> Path:
    """Make the folder that :func:`finish_folder` puts in the place of ``path``, where the steps are far apart.

    Raises:
        error: ``path`` holds something and may not be replaced.
        OSError: the system refuses.
    """
    target = Path(path).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise error(f"{target}: is a file, expected a folder or nothing. Choose a new folder.")
    if target.is_dir() and not replace and _content(target):
        raise error(f"{target}: is not empty. Choose a new folder.")
    partial = partial_folder(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def partial_folder(path: str | Path) -> Path:
    """Where a folder is written before it gets its name: beside it, or inside where it must stay (a mount point)."""
    target = Path(path).expanduser().resolve()
    if target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK)):
        return target / ".partial"
    return target.with_name(f".{target.name}.partial")


def finish_folder(partial: Path, path: str | Path) -> None:
    """Give a folder of :func:`partial_folder` its name, in place of what had it; all files get the umask's mode.

    Raises:
        OSError: the system refuses.
    """
    target = Path(path).expanduser().resolve()
    mode = partial.stat().st_mode & 0o666
    for file in partial.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode | file.stat().st_mode & 0o111)
    if partial.parent == target:
        for old in _content(target):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        for new in list(partial.iterdir()):
            new.rename(target / new.name)
        partial.rmdir()
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)  # so that a whole one is there at any time, if under another name
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _content(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name not in _NO_CONTENT]


def require_writable(path: str | Path, *, error: type[RDT2Error] = RecordingError) -> Path:
    """See that a file or folder of this name can be made, before anything costly is done; returns ``path``.

    Raises:
        error: no folder to make it in, or one that may not be written to.
    """
    place = Path(path).expanduser().absolute()
    with _told(place, error, ""):
        parent = place if place.is_dir() else place.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{parent} is a file, not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"no permission to write in {parent}")
        try:  # some systems refuse what permissions allow, such as /proc
            tempfile.TemporaryFile(dir=parent).close()
        except OSError as refused:
            raise OSError(refused.errno, f"{refused.strerror} ({parent})") from None
    return Path(path)


def write_problem(error: BaseException) -> str | None:
    """The reason and what helps, where ``error`` is of a system that did not let something be written; else None."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number is None:  # safetensors puts it in words, torch in parentheses or only in its own words
        found = re.search(r"\(os error (\d+)\)", text)
        number = int(found[1]) if found else None
        if re.search("PytorchStreamWriter failed|file write failed|unexpected pos", text):
            number = errno.ENOSPC
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({text}). Free some space, or choose another place"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission: {text}. Choose a place that you may write to"
    if number is not None or isinstance(error, OSError):
        return f"{text}. Choose another place"
    return None


@contextlib.contextmanager
def _told(target: Path, kind: type[RDT2Error], advice: str) -> Iterator[None]:
    """Turn what the system says into an error that names the target, the reason, and what to do."""
    try:
        yield
    except RDT2Error:
        raise
    except Exception as error:
        problem = write_problem(error)
        if problem is None:
            raise
        raise kind(
            f"{target}: could not be written: {problem}. {advice or 'Nothing is left half-written.'}"
        ) from error


def _is_stream(target: Path) -> bool:
    if not target.exists():
        return False
    return str(target).startswith(_STREAMS) or not (target.is_file() or target.is_dir())


# ------------------------------------------------------------------------------------------- reading


def require_file(
    path: str | Path, *, advice: str = "Copy it again.", error: type[RDT2Error] = CheckpointError
) -> Path:
    """See that a file is there, may be read, and is itself and no pointer to it; returns it.

    Args:
        path: the file.
        advice: what to do where it is missing.
        error: what is raised otherwise.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            start = opened.read(len(LFS_POINTER))
    except (FileNotFoundError, NotADirectoryError) as problem:
        if file.is_symlink():
            raise error(
                f"{file}: is a link to {os.readlink(file)}, where there is no file. {advice}"
            ) from problem
        raise error(f"expected {file.name} in {file.parent}, found none. {advice}") from problem
    except PermissionError as problem:
        raise error(forbidden(file)) from problem
    except OSError as problem:
        raise error(f"{file}: cannot be read ({problem.strerror or problem}). {advice}") from problem
    if start == LFS_POINTER:
        raise error(
            f"{file}: is a pointer of Git LFS, not the file. Fetch it with 'git lfs pull' in {file.parent}."
        )
    return file


def disguise(head: bytes) -> str | None:
    """What a file is whose first 64 bytes give it away as a stand-in, and what to do; None for any other."""
    text = head.lstrip().lower()
    return next((told for magic, told in _INSTEAD if head.startswith(magic) or text.startswith(magic)), None)


def unreadable(path: str | Path, words: str) -> str:
    """What to say of a file that its reader makes no sense of: ``words``, or what stands in the file's place."""
    instead = None
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        instead = disguise(stream.read(64))
    return f"{path}: {words}" if instead is None else f"{path}: is {instead}."


def forbidden(path: Path) -> str:
    """What to say of a file or folder that is there and may not be read."""
    return (
        f"{path}: permission denied. It may well be there, but user {os.geteuid()} may not read it. Ask its owner "
        f"for 'chmod a+rX' on it and the folders above, or copy it as its owner."
    )
