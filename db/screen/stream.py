"""What both ways of reporting write to."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TextIO, TypeAlias

Cell: TypeAlias = "str | int | datetime | None"


def write(stream: TextIO, text: str) -> None:
    """Write and flush; a stream that nobody reads any more becomes nowhere."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # Nobody reads on, or the disk is full: no reason to stop half way through the migrations.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
