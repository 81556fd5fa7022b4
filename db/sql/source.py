"""A file's text, which is the same at each reading of it, whatever becomes of the file.

A small file is kept. A large one is read again wherever it is needed, in blocks; the first reading
of a block is remembered by its SHA-256, and another one of it is an error. So what is sent to the
server is what the checksum was made of. (A map of the file would show what others write into it,
and end the process with a SIGBUS where they cut it off.)
"""

from __future__ import annotations

import codecs
import hashlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from ..errors import FileChanged

BLOCK = 1 << 20  # bytes; a file of fewer is kept
_HELD = 3  # blocks that stay in memory


class Source:
    """The bytes of a text; `shown` is what people call it. Positions are counted in bytes.

    `text`: all of it, where it is kept.
    """

    text: bytes | None = None

    def __init__(self, text: bytes, shown: str) -> None:
        self.shown = shown
        self.size = len(text)
        self.text = text
        self._begin()

    @classmethod
    def open(cls, path: Path, shown: str) -> Source:
        """Return the source of a file. Raise `FileChanged` if it cannot be read any more."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FileChanged(shown, f"cannot be read any more: {error.strerror}") from None
        size = os.fstat(descriptor).st_size
        if size < BLOCK:
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123  # is open already
                return cls(file.readall(), shown)
        return _Large(descriptor, size, shown)

    def _begin(self) -> None:
        bom = self.read(0, len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        self.first = len(codecs.BOM_UTF8) if bom else 0  # where its text begins

    def close(self) -> None:
        """Close the file."""

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of a span. Raise `FileChanged` if they are not what they were."""
        assert self.text is not None
        return self.text[start:end]

    def chunks(self, span: tuple[int, int]) -> Iterator[bytes]:
        """Yield the bytes of a span in pieces. Raise as `read()` does."""
        start, end = span
        while start < end:
            border = min(start - start % BLOCK + BLOCK, end)
            yield self.read(start, border)
            start = border

    def line_start(self, offset: int) -> int:
        """Return where the line of a byte starts."""
        end = max(offset, 0)
        while end > self.first:
            start = max(end - (1 << 16), self.first)
            found = self.read(start, end).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return self.first


class _Large(Source):
    def __init__(self, descriptor: int, size: int, shown: str) -> None:
        self.shown = shown
        self.size = size
        self._descriptor = descriptor
        self._digests: dict[int, bytes] = {}
        self._blocks: dict[int, bytes] = {}
        self.close = weakref.finalize(self, os.close, descriptor)  # type: ignore[method-assign]
        self._begin()

    def read(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        numbers = range(start // BLOCK, -(-end // BLOCK)) if end > start else range(0)
        pieces = [self._block(n)[max(start - n * BLOCK, 0) : end - n * BLOCK] for n in numbers]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _block(self, number: int) -> bytes:
        held = self._blocks.get(number)
        if held is not None:
            return held
        start, read = number * BLOCK, b""
        wanted = min(BLOCK, self.size - start)
        try:
            while len(read) < wanted:
                more = os.pread(self._descriptor, wanted - len(read), start + len(read))
                if not more:
                    raise FileChanged(self.shown, "was cut off while it was read")
                read += more
        except OSError as error:
            raise FileChanged(self.shown, f"cannot be read any more: {error.strerror}") from None
        digest = hashlib.sha256(read).digest()
        if self._digests.setdefault(number, digest) != digest:
            raise FileChanged(self.shown, "was written to while it was read")
        while len(self._blocks) >= _HELD:
            del self._blocks[next(iter(self._blocks))]
        self._blocks[number] = read
        return read
