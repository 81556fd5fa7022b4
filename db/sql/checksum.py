"""The checksum of a file's text, the same for every checkout of it. No database.

In a room of its own, because a run with nothing to do needs nothing else of the files.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from ..errors import FilesError

_BLOCK = 1 << 20
_CONVERT = "In a shell, such as from Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 FILE > FILE.new"
_UTF_16 = "It begins as UTF-16 does. In a shell: iconv -f UTF-16 -t UTF-8 FILE > FILE.new"


def read(path: Path, shown: str) -> str:
    """Return the SHA-256 of a file's text with a BOM removed and CRLF as LF.

    Raise `FilesError` if it is not UTF-8 or has a NUL byte, which PostgreSQL's text cannot hold,
    and `OSError` if it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        first = file.read(_BLOCK)
        if len(first) < _BLOCK and not file.read(1):
            return whole(first, shown)
        file.seek(0)
        return of(iter(lambda: file.read(_BLOCK), b""), shown)


def whole(text: bytes, shown: str) -> str:
    """Return the same of a text; of one that is ASCII, as most are, little has to be looked at."""
    if text.isascii() and b"\r" not in text and b"\0" not in text:
        return hashlib.sha256(text).hexdigest()
    return of((text,), shown)


def of(blocks: Iterable[bytes], shown: str) -> str:
    """Return the same of a text that comes in blocks."""
    hashed, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    held, offset, line = b"", 0, 1
    for block in chain(blocks, (b"",)):  # the empty one ends the text
        pending = decoder.getstate()[0]
        try:
            if pending or not block.isascii():
                decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            wrong = error.object[error.start]
            where = f"byte {offset - len(pending) + error.start} (0x{wrong:02x})"
            line += error.object.count(b"\n", len(pending), error.start)
            message = f"{shown}: {where}, on line {line}, is not UTF-8: save the file as UTF-8."
            marked = not offset and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            raise FilesError(message, _UTF_16 if marked else _CONVERT) from None
        if b"\0" in block:
            where = f"byte {offset + block.index(0)}"
            message = f"{shown}: {where} is a NUL, which PostgreSQL's text cannot hold: remove it."
            raise FilesError(message)
        text = held + block if offset else block.removeprefix(codecs.BOM_UTF8)
        held = b"\r" if block and text.endswith(b"\r") else b""  # its \n may be in the next one
        hashed.update(text[: len(text) - len(held)].replace(b"\r\n", b"\n"))
        offset, line = offset + len(block), line + block.count(b"\n")
    return hashed.hexdigest()
