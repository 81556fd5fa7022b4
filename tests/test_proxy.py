"""The proxy delays, counts and breaks as it says, or the tests that use it prove nothing."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tests.proxy import Proxy
from tests.servers import Cluster, PgBouncer


def _connect(cluster: Cluster, proxy: Proxy) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(cluster.url(port=proxy.port), autocommit=True, prepare_threshold=None)


def test_a_round_trip_takes_the_latency_twice(cluster: Cluster, proxy: Proxy) -> None:
    with _connect(cluster, proxy) as conn:
        proxy.latency_s = 0.05
        started = time.monotonic()
        conn.execute("SELECT 1")
        assert 0.1 <= time.monotonic() - started < 5


def test_a_pipeline_pays_the_latency_once(cluster: Cluster, proxy: Proxy) -> None:
    with _connect(cluster, proxy) as conn:
        proxy.latency_s = 0.05
        proxy.reset_counters()
        started = time.monotonic()
        with conn.pipeline():
            cursors = [conn.execute("SELECT %s::int", [n]) for n in range(50)]
        assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(50)]
        assert time.monotonic() - started < 2.5  # one after the other
    assert proxy.round_trips <= 3


def test_round_trips_connections_and_bytes_are_counted(cluster: Cluster, proxy: Proxy) -> None:
    with _connect(cluster, proxy) as conn:
        proxy.reset_counters()
        for _ in range(7):
            conn.execute("SELECT repeat('x', 1000)")
        assert proxy.round_trips == 7
        assert proxy.bytes_down > 7000
        assert 7 < proxy.bytes_up < 7000
    with _connect(cluster, proxy):
        assert proxy.connections == 1


def test_large_answers_arrive_whole(cluster: Cluster, proxy: Proxy) -> None:
    proxy.latency_s = 0.005
    with _connect(cluster, proxy) as conn:
        row = conn.execute("SELECT md5(big), big FROM repeat('0123456789', 1000000) big").fetchone()
        assert row is not None
        check = conn.execute("SELECT md5(%s::text)", [row[1]]).fetchone()
        assert check == (row[0],)


def test_cut_breaks_the_links_and_takes_new_ones(cluster: Cluster, proxy: Proxy) -> None:
    with _connect(cluster, proxy) as conn:
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    with _connect(cluster, proxy) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("side", ["up", "down"])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_cut_after_lets_exactly_so_many_bytes_through(
    cluster: Cluster, proxy: Proxy, side: str, count: int
) -> None:
    with _connect(cluster, proxy) as conn:
        proxy.reset_counters()
        proxy.cut_after(**{side: count})
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT %s::text, repeat('x', 1000)", ["y" * 1000])
    assert (proxy.bytes_up if side == "up" else proxy.bytes_down) == count


def test_a_hanging_link_goes_on_when_resumed(cluster: Cluster, proxy: Proxy) -> None:
    with _connect(cluster, proxy) as conn:
        proxy.hang()
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.extend(conn.execute("SELECT 42")))
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
        proxy.resume()
        asking.join(5)
    assert answers == [(42,)]


def test_refuse_is_connection_refused_until_resumed(cluster: Cluster, proxy: Proxy) -> None:
    with _connect(cluster, proxy) as conn:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            _connect(cluster, proxy)
        assert conn.execute("SELECT 1").fetchone() == (1,)
        proxy.resume()
        _connect(cluster, proxy).close()


def test_pgbouncer_gives_its_clients_few_backends(pgbouncer: PgBouncer, database: str) -> None:
    clients = [psycopg.connect(pgbouncer.url(database), autocommit=True) for _ in range(10)]
    pids = {row for client in clients for row in client.execute("SELECT pg_backend_pid()")}
    for client in clients:
        client.close()
    assert 1 <= len(pids) <= 3
    with psycopg.connect(pgbouncer.url(database, role="deploy")) as deploy:
        assert deploy.execute("SELECT current_user").fetchone() == ("deploy",)
