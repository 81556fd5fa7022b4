"""What both ways of reporting write to."""

from __future__ import annotations

import errno
import os
from datetime import datetime
from typing import TextIO, TypeAlias

from ..errors import FilesError

Cell: TypeAlias = "str | int | datetime | None"


_lost: list[str] = []


def lost() -> str:
    """Return why something could not be written, and forget it; nothing if all was."""
    why = _lost[0] if _lost else ""
    _lost.clear()
    return why


def write(stream: TextIO, text: str) -> None:
    """Write and flush; a stream that nobody reads any more becomes nowhere."""
    try:
        _write(stream, text)
    except OSError as error:
        # Nobody reads on, or the disk is full: no reason to stop half way through the migrations.
        if error.errno != errno.EPIPE:  # whoever reads no further has wanted that
            _lost.append(error.strerror or "")


def write_whole(stream: TextIO, text: str) -> None:
    """Write a piece of what is of use only as a whole, as `write` does if nobody reads on.

    Raise `FilesError` if it cannot be written otherwise.
    """
    try:
        _write(stream, text)
    except BrokenPipeError:  # whoever stops reading, as head does, has what they wanted
        pass
    except OSError as error:
        raise FilesError(
            f"The output cannot be written: {error.strerror}. It is cut off.",
            "Nothing was executed. Make room, or let it go elsewhere.",
        ) from None


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise
