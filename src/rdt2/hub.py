"""Where a model's files are: a local folder, or a repository of the Hugging Face hub, by way of its cache.

locate("runs/vlm", ["config.json"])                       # a folder is itself
locate("Qwen/Qwen2.5-VL-7B-Instruct", ["config.json"])    # fetched, or found in the cache without a network
locate("owner/name@v1.0", ["*.json"])                     # a branch, tag or commit
locate("https://huggingface.co/owner/name", ["*.json"])   # its page
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rdt2.errors import CheckpointError, RDT2Error
from rdt2.files import forbidden

_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[^/]+/[^/]+?)(?:/tree/(?P<revision>.+?))?/?"
)
_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def locate(
    path: str | Path,
    patterns: Sequence[str],
    *,
    what: str = "a checkpoint",
    error: type[RDT2Error] = CheckpointError,
) -> Path:
    """The local folder of a checkpoint: ``path`` itself, or the hub's snapshot with the files that match.

    Without a network the snapshot may hold fewer files; whoever reads them says which one is missing.

    Args:
        path: a folder, or "owner/name" or "owner/name@revision" of the hub.
        patterns: names of the files to fetch; ``*`` is any text.
        what: names what is looked for, in messages.
        error: what is raised.

    Raises:
        error: there is no such folder, or one may not look into it, and the hub does not give it either.
    """
    folder = Path(path).expanduser()
    try:
        if folder.is_dir():
            if not os.access(folder, os.X_OK):
                raise PermissionError
            return folder
        is_file = folder.is_file()
    except PermissionError as problem:
        raise error(forbidden(folder)) from problem
    if is_file:
        raise error(f"{folder}: is a file, expected the folder of {what}. Give {folder.parent} instead.")
    found = _ID.fullmatch(_hub_id(str(path)))
    if found is None:
        unfinished = folder.name == "model" and (folder.parent / "config.json").is_file()
        raise error(
            f"{path}: no such folder, expected that of {what}"
            + (
                f". The training in {folder.parent} has not come to its end: give its command again, with --resume."
                if unfinished
                else ", or a hub id 'owner/name'."
            )
        )
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(
            snapshot_download(found["repo"], revision=found["revision"], allow_patterns=list(patterns))
        )
    except Exception as problem:  # the hub's client raises errors of many libraries
        if incomplete := getattr(problem, "snapshot_path", None):
            return Path(incomplete)
        if constants.HF_HUB_OFFLINE:
            reason = (
                f"the hub's cache {constants.HF_HUB_CACHE} does not hold it, and HF_HUB_OFFLINE forbids to fetch it. "
                f"Unset HF_HUB_OFFLINE, or run 'hf download {found['repo']}' where there is a network"
            )
        else:
            reason = (
                f"the hub did not give it ({type(problem).__name__}: {' '.join(str(problem).split()):.300}). Check "
                "the name and the network, or download it and give the folder"
            )
        raise error(f"{path}: no folder of that name is here, expected {what}, and {reason}.") from problem


def is_missing_folder(path: str) -> bool:
    """Whether `path` can only be that of a folder, and there is none: it is no id of the hub, and no page of one."""
    return _ID.fullmatch(_hub_id(path)) is None and not os.path.lexists(Path(path).expanduser())


def _hub_id(name: str) -> str:
    """The id of a repository whose page was given, with its revision; other names as they are."""
    page = _PAGE.fullmatch(name)
    if page is None:
        return name
    return page["id"] if page["revision"] is None else f"{page['id']}@{page['revision']}"


def offline_note(path: str | Path) -> str:
    """A clause more where a file is missing perhaps only because nothing may be fetched; else nothing."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE or Path(path).expanduser().exists():
        return ""
    return f" (HF_HUB_OFFLINE is set: without it, or by 'hf download {path}', what is missing is fetched)"


def locate_any(
    path: str | Path,
    always: Sequence[str],
    either: Sequence[str],
    *,
    what: str = "a checkpoint",
    error: type[RDT2Error] = CheckpointError,
) -> Path | None:
    """The first of the files ``either`` that ``path`` has, fetched with the files ``always``; None if it has none.

    From the hub only one of them is fetched; args and errors are those of :func:`locate`.
    """
    for name in either:
        file = locate(path, [*always, name], what=what, error=error) / name
        if os.path.lexists(file):  # a link to nowhere is told when it is read
            return file
    return None
