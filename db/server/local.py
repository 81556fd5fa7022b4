"""Whether a server is on this machine: by a proof, because 127.0.0.1 may be a tunnel's end."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from .ours import Connection

_PROGRAMS = ("postgres", "postmaster")  # what the server's program is called


def is_local(conn: Connection) -> bool:
    """Return whether this machine's processes show that the server is one of them.

    A socket's other end has to be PostgreSQL's own process (ssh forwards sockets, too). For
    loopback TCP, there must be a process of the backend's number whose title holds our own port:
    https://www.postgresql.org/docs/current/runtime-config-logging.html#GUC-UPDATE-PROCESS-TITLE
    Where there is no proof, as with a container or without /proc, the answer is no.
    """
    row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    if row != (conn.info.backend_pid,):
        return False  # a pooler is in between
    with suppress(OSError, ValueError), socket.socket(fileno=os.dup(conn.fileno())) as link:
        if link.family == socket.AF_UNIX:
            if not hasattr(socket, "SO_PEERCRED"):  # macOS has another, and no /proc
                return False
            size = struct.calcsize("3i")
            peer = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            pid, _, _ = struct.unpack("3i", peer)
            return _read(pid, "comm").strip() in _PROGRAMS
        if not ip_address(conn.info.hostaddr).is_loopback:
            return False
        title = _read(conn.info.backend_pid, "cmdline")
        return title.startswith(_PROGRAMS) and f"({link.getsockname()[1]})" in title
    return False


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
