"""A TCP proxy that makes a link slow, counts what passes, and breaks it in the ways links break."""

from __future__ import annotations

import ctypes
import queue
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType

_CHUNK = 65_536
_POLL_S = 0.02
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST, as a cut link looks

_DROP = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes
_SO_ATTACH_FILTER = 26  # Linux

Chunk = tuple[float, bytes]


class Proxy:
    """Forwards 127.0.0.1:`port` to a server: `host` and `server_port` as libpq takes them.

    `latency_s` is one way: a round trip takes twice as long. What was sent is on its way at once,
    however much of it there is, so pipelining helps here as much as on a real link.
    """

    def __init__(self, host: str, server_port: int, *, latency_s: float = 0.0) -> None:
        self.host = host
        self.server_port = server_port
        self.latency_s = latency_s
        self.connections = 0
        self.bytes_up = 0  # from the client to the server
        self.bytes_down = 0
        self.round_trips = 0  # times that a client sent something after an answer had arrived
        self.lock = threading.RLock()
        self.flowing = threading.Event()
        self.flowing.set()
        self._links: set[_Link] = set()
        self._budget: dict[str, int] = {}
        self._unwanted, self._times = b"", 0
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self.port = 0
        self._listen()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def reset_counters(self) -> None:
        with self.lock:
            self.connections = self.bytes_up = self.bytes_down = self.round_trips = 0

    def cut(self) -> None:
        """Break every link now. What was still on its way is lost; new connections are taken."""
        with self.lock:
            links = list(self._links)
        for link in links:
            link.close()

    def cut_after(self, *, up: int | None = None, down: int | None = None) -> None:
        """Break every link when exactly so many more bytes have arrived on one side."""
        wanted = {"up": up, "down": down}
        with self.lock:
            self._budget = {side: n for side, n in wanted.items() if n is not None}

    def cut_before(self, text: bytes, times: int = 1) -> None:
        """Break a link in place of what its client sends with this text in it, so many times."""
        with self.lock:
            self._unwanted, self._times = text, times

    def hang(self) -> None:
        """Forward nothing more, and close nothing: a link that swallows packets."""
        self.flowing.clear()

    def swallow(self) -> None:
        """Drop every packet of the links there are, unanswered: a cable that was pulled (Linux).

        New connections are taken. To the server it looks so as well if that is on TCP.
        """
        program = struct.pack("HP", 1, ctypes.addressof(_DROP))
        with self.lock:
            ends = [end for link in self._links for end in (link.client, link.server)]
        for end in ends:
            if end.family == socket.AF_INET:
                end.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def abandon(self) -> None:
        """Break every link on the client's side only: the server is not told, and waits for more.

        New connections are taken.
        """
        with self.lock:
            links = list(self._links)
        for link in links:
            link.abandoned.set()
            with suppress(OSError):
                link.client.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        listener.close()
        if self._accepting:
            self._accepting.join()

    def resume(self) -> None:
        """End what `cut_after`, `hang` and `refuse` began."""
        with self.lock:
            self._budget = {}
        self.flowing.set()
        if self._listener is None:
            self._listen()

    def close(self) -> None:
        self.refuse()
        self.cut()
        with self.lock:
            links = list(self._links)
        for link in links:
            link.join()

    def allowed(self, side: str, size: int) -> int | None:
        """Return how many of these bytes may pass before the links break; None for all of them."""
        with self.lock:
            left = self._budget.get(side)
            if left is None:
                return None
            self._budget[side] = max(left - size, 0)
            return min(left, size) if left <= size else None

    def refuses(self, side: str, data: bytes) -> bool:
        """Return whether this is what the links are to be broken before."""
        with self.lock:
            refused = side == "up" and self._times > 0 and self._unwanted in data
            self._times -= refused
            return refused

    def forget(self, link: _Link) -> None:
        with self.lock:
            self._links.discard(link)

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accepting = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._accepting.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            with self.lock:
                self.connections += 1
                link = _Link(self, client, server)
                self._links.add(link)
                link.start()  # before anybody can wait for its end

    def _connect(self) -> socket.socket:
        if not self.host.startswith("/"):
            return socket.create_connection((self.host, self.server_port))
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(f"{self.host}/.s.PGSQL.{self.server_port}")
        except OSError:
            server.close()
            raise
        return server


class _Link:
    """One client's connection: each way has a thread that reads and one that writes when due."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.closed = threading.Event()
        self.abandoned = threading.Event()
        self.answered = True  # since the client last sent something
        self._open_ways = 2
        ways = (("up", client, server), ("down", server, client))
        self._threads = []
        for side, source, target in ways:
            if source.family == socket.AF_INET:
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pending: queue.Queue[Chunk] = queue.Queue(maxsize=1024)
            for work, end in ((self._read, source), (self._write, target)):
                arguments = (side, end, pending)
                self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        with self.proxy.lock:
            if self.closed.is_set():
                return
            self.closed.set()
        for end in (self.client, self.server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the threads
        # Only now: a number that is free again may already be somebody else's connection.
        threading.Thread(target=self._release, daemon=True).start()

    def _release(self) -> None:
        self.join()
        self.client.close()
        self.server.close()
        self.proxy.forget(self)

    def _read(self, side: str, source: socket.socket, pending: queue.Queue[Chunk]) -> None:
        data = b"."
        while data and not self.closed.is_set():
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            if side == "up" and data:
                with self.proxy.lock:
                    self.proxy.round_trips += self.answered
                    self.answered = False
            due = time.monotonic() + self.proxy.latency_s
            while not self.closed.is_set():
                with suppress(queue.Full):
                    pending.put((due, data), timeout=_POLL_S)
                    break

    def _write(self, side: str, target: socket.socket, pending: queue.Queue[Chunk]) -> None:
        while not self.closed.is_set():
            try:
                due, data = pending.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            time.sleep(max(due - time.monotonic(), 0))
            while not self.proxy.flowing.wait(_POLL_S) and not self.closed.is_set():
                pass
            if self.closed.is_set():
                return
            if self.abandoned.is_set():
                continue
            if not data:
                break
            if self.proxy.refuses(side, data):
                self.close()
                return
            limit = self.proxy.allowed(side, len(data))
            passed = data[:limit]
            with self.proxy.lock:
                if side == "up":
                    self.proxy.bytes_up += len(passed)
                else:
                    self.proxy.bytes_down += len(passed)
                    self.answered = True
            try:
                target.sendall(passed)
            except OSError:
                break
            if limit is not None:
                self.proxy.cut()
                return
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        with self.proxy.lock:
            self._open_ways -= 1
            finished = self._open_ways == 0
        if finished:
            self.close()
