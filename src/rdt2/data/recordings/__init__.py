"""Episodes of the loop on disk: one MCAP file each, which viewers read, and its notes.

messages.py: what a message looks like. topics.py: what there is. files.py: MCAP files that survive. notes.py: what is
said about a recording. reading.py: the way back. `rdt2.control.DiskRecorder` writes them; `rdt2 data convert --from
recording` makes shards of them.
"""

from __future__ import annotations

from rdt2.data.recordings.files import RecordingFile, require_mcap
from rdt2.data.recordings.notes import RUNNING, Mark, Notes, notes_path, write_notes
from rdt2.data.recordings.reading import (
    Recording,
    find_recordings,
    mark_recording,
    read_notes,
    read_recording,
    recover,
)

__all__ = [
    "RUNNING",
    "Mark",
    "Notes",
    "Recording",
    "RecordingFile",
    "find_recordings",
    "mark_recording",
    "notes_path",
    "read_notes",
    "read_recording",
    "recover",
    "require_mcap",
    "write_notes",
]
