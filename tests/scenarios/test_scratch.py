"""A disposable database is like the target's, bothers nobody, and leaves nothing."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from db import migrate, testing
from db.commands.opened import read_only
from db.engine import place
from db.errors import MigrationsError, SettingsError
from db.events import Applied, Event
from db.scratch import clusters, fill, roles
from db.scratch.database import PREFIX
from db.scratch.database import database as disposable
from db.server import connection, described
from db.server.ours import Connection
from db.settings import Settings, read
from tests.conftest import ROOT, Project
from tests.servers import DEPLOY_PASSWORD, Cluster, PgBouncer

SEARCH_PATH = 'app, "Odd, one", public'

# Says the server's process, or the name of the database, and keeps it until it is killed.
_HOLDER = """
import sys
from db.scratch import database
from db.settings import Settings
values = {"MIGRATIONS_SCRATCH": sys.argv[1]} if sys.argv[1] else {}
settings = Settings.of("embedded:", "migrations", values=values)
with database.database(settings) as made:
    if not made.own:
        print(made.target.parameters["dbname"], flush=True)
    else:
        with made.target.once("test") as conn:
            row = conn.execute("SELECT current_setting('data_directory')").fetchone()
            print(row[0], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, tmp_path: Path) -> None:
    """Let the session's server be among the programs, and ordinary users have a cache of this."""
    path = [os.environ.get("PATH", os.defpath), str(cluster.binaries)]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(url: str, folder: Path, scratch: str = "") -> Settings:
    values = {"MIGRATIONS_SCRATCH": scratch} if scratch else {}
    return Settings.of(url, folder, values=values)


@contextmanager
def reading(chosen: Settings) -> Iterator[tuple[connection.Target, Connection]]:
    with connection.target(chosen) as target, target.once("test") as conn:
        server = described.describe(conn, writing=False)
        with read_only(conn, server):
            yield target, conn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two migrations, of which the second one needs the role and the path of the target."""
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "001_make.sql").write_text("CREATE TABLE app.things (id bigserial PRIMARY KEY);")
    (made / "002_grant.sql").write_text(
        "CREATE TABLE made (by name DEFAULT current_user); INSERT INTO made DEFAULT VALUES;"
        "GRANT SELECT ON things TO scratch_reader;"
    )
    return made


@pytest.fixture
def target(cluster: Cluster, database: str) -> Iterator[str]:
    """The URL of a database with a role, settings and an owner of its own."""
    with cluster.connect(database) as conn:
        for role in ("scratch_reader", "scratch_owner"):
            conn.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x'".encode())
        conn.execute('CREATE SCHEMA app; CREATE SCHEMA "Odd, one"')
        conn.execute(f"ALTER DATABASE {database} SET search_path = nowhere".encode())
        conn.execute(
            f"ALTER ROLE scratch_owner IN DATABASE {database} SET search_path = {SEARCH_PATH};"
            f"ALTER ROLE scratch_owner SET datestyle = 'German, DMY';"
            f"ALTER DATABASE {database} SET statement_timeout = '1h'".encode()
        )
    yield cluster.url(database).replace("postgres@", "scratch_owner:x@")
    with cluster.connect(database) as conn:
        conn.execute("DROP OWNED BY scratch_owner, scratch_reader CASCADE")
        conn.execute("DROP ROLE scratch_owner, scratch_reader")


@pytest.mark.xdist_group("scratch")  # its roles belong to the whole server
def test_a_copy_is_the_targets_database_without_its_rows(
    target: str, folder: Path, database: str
) -> None:
    chosen = settings(target, folder)
    migrate(chosen)
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute("INSERT INTO app.things SELECT FROM generate_series(1, 5)")
        conn.execute("DELETE FROM app.migrations WHERE filename = '002_grant.sql'")
        conn.execute("DROP TABLE app.made; DROP SCHEMA public")
    with reading(chosen) as (there, conn), disposable(chosen, conn) as scratch:
        book = place.find(conn, chosen.ledger)
        fill.copy(there, conn, book, scratch)
        assert scratch.own
        assert scratch.major == conn.info.server_version // 10000
        fill.replay(scratch, schema=False)
        with scratch.target.once("test") as copy:
            row = copy.execute(
                "SELECT current_user, current_database(), current_setting('search_path'),"
                " current_setting('datestyle'), current_setting('statement_timeout'),"
                " to_regnamespace('public')"
            ).fetchone()
            assert row == ("scratch_owner", database, SEARCH_PATH, "German, DMY", "0", None)
            ids = copy.execute("SELECT filename, id FROM app.migrations ORDER BY id").fetchall()
            assert ids == [("001_make.sql", 1), ("002_grant.sql", 2)]
            assert copy.execute("SELECT count(*) FROM app.things").fetchone() == (0,)
            assert copy.execute("SELECT by FROM app.made").fetchone() == ("scratch_owner",)


@pytest.mark.xdist_group("scratch")
def test_a_replay_is_what_the_files_make_and_each_starts_anew(target: str, folder: Path) -> None:
    (folder / "000_role.sql").write_text("CREATE ROLE of_a_file; CREATE SCHEMA app;")
    (folder / "002_grant.sql").write_text("SELECT 1/0;")
    chosen = settings(target, folder)
    for _ in range(2):  # the role of the first one is gone with its server
        with disposable(chosen) as scratch:
            wanted = {"000_role.sql", "001_make.sql"}
            shown: list[Event] = []
            fill.replay(scratch, shown.append, among=wanted)
            applied = [event.filename for event in shown if isinstance(event, Applied)]
            assert applied == sorted(wanted)
            assert target not in repr(scratch)
    with psycopg.connect(target) as conn:
        row = conn.execute("SELECT to_regclass('app.things'), to_regrole('of_a_file')").fetchone()
    assert row == (None, None)


@pytest.mark.xdist_group("scratch")
def test_only_the_wheels_server_is_called_embedded(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, wheel = settings(url, folder), clusters.installed()
    with disposable(chosen) as scratch:
        named = scratch.shown.startswith("embedded PostgreSQL ")
        assert named == clusters.is_of_the_wheel(wheel)

    def missing() -> Path:
        raise SettingsError("it is not installed")

    monkeypatch.setattr("db.server.embedded.wheel", missing)
    with disposable(chosen) as scratch:
        assert scratch.shown.startswith("disposable PostgreSQL ")


def test_on_a_named_server_only_its_own_databases_are_dropped(
    cluster: Cluster, folder: Path, url: str
) -> None:
    chosen = settings(url, folder, cluster.url())
    with holder(cluster.url()) as live, holder(cluster.url()) as killed:
        names = [said(live), said(killed)]
        assert all(name.startswith(PREFIX) for name in names)
        killed.kill()
        killed.wait()
        with reading(chosen) as (_, conn), disposable(chosen, conn) as scratch:
            assert not scratch.own
            name = scratch.target.parameters["dbname"]
            assert databases(cluster) >= {names[0], name}
            assert names[1] not in databases(cluster)
        assert name not in databases(cluster)
        assert names[0] in databases(cluster)
    assert names[0] not in databases(cluster)


def test_what_a_killed_process_leaves_is_ended_by_the_next(folder: Path, url: str) -> None:
    with holder("") as process:
        data = Path(said(process))
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        assert Path(f"/proc/{pid}/cwd").readlink() == data
        process.kill()
    with disposable(settings(url, folder)):
        assert not data.exists()
        with pytest.raises(OSError, match="No such"):  # a zombie at most
            Path(f"/proc/{pid}/cwd").readlink()


def test_a_server_that_cannot_stand_for_the_target_is_refused(
    cluster: Cluster, pgbouncer: PgBouncer, folder: Path, url: str
) -> None:
    refused = {
        pgbouncer.url(): "A pooler is between here and",
        "postgresql://me:secret@127.0.0.1:1/postgres": "Cannot connect to postgres on 127.0.0.1:1",
        cluster.url(role="deploy"): "permission denied to create database",
    }
    for scratch, message in refused.items():
        chosen = settings(url, folder, scratch)
        with (
            reading(chosen) as (_, conn),
            pytest.raises(MigrationsError, match=message) as caught,
            disposable(chosen, conn),
        ):
            pass
        assert "MIGRATIONS_SCRATCH=postgresql://" in str(caught.value.advice)
        assert "secret" not in f"{caught.value!r}{caught.value.advice}"
        assert DEPLOY_PASSWORD not in f"{caught.value!r}{caught.value.advice}"


def test_what_is_missing_on_this_machine_is_named(folder: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="needs the programs of PostgreSQL 99"):
        clusters.installed(99)
    chosen = settings(url, folder)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute(
            "INSERT INTO pg_extension SELECT 99999, 'nowhere', 10, extnamespace, false, '1'"
            " FROM pg_extension WHERE extname = 'plpgsql'"
        )
    with (
        reading(chosen) as (_, conn),
        pytest.raises(SettingsError, match="lacks what the target uses: extension nowhere"),
        disposable(chosen, conn),
    ):
        pass


def test_its_url_stays_out_of_what_is_committed(tmp_path: Path) -> None:
    url = "postgresql://me:secret@host/postgres"
    with pytest.raises(SettingsError, match=r"db\.scratch does not belong in invoke\.yaml"):
        read(tmp_path, {"scratch": url}, {"DATABASE_URL": "postgresql://host/name"})
    env = {"DATABASE_URL": "postgresql://host/name", "MIGRATIONS_SCRATCH": url}
    chosen = read(tmp_path, None, env)
    assert chosen.scratch == {**chosen.scratch, "host": "host", "password": "secret"}
    assert "secret" not in repr(chosen)
    with pytest.raises(SettingsError, match="MIGRATIONS_SCRATCH begins with mysql://"):
        read(tmp_path, None, {**env, "MIGRATIONS_SCRATCH": "mysql://host/name"})


def holder(scratch: str) -> subprocess.Popen[str]:
    """Return a process that has a disposable database until its input ends; a context closes it."""
    command = [sys.executable, "-c", _HOLDER, scratch]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def databases(cluster: Cluster) -> set[str]:
    with cluster.connect() as conn:
        return {str(name) for (name,) in conn.execute("SELECT datname FROM pg_database")}


def test_a_ledger_in_a_schema_that_is_made_by_hand_is_replayed(project: Project) -> None:
    """The files do not make it, so a disposable database would not have it, nor one made anew."""
    project.write("001_t.sql", "CREATE TABLE t (id int PRIMARY KEY);")
    (project.folder / "db" / "schema.sql").unlink()
    env = {"MIGRATIONS_TABLE": "ops.migrations"}
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE SCHEMA ops")
    for command in (
        ["db.migrate"],
        ["db.drift"],
        ["db.models"],
        ["db.models", "--check"],
        ["db.rehearse", "--replay"],
        ["db.reset", "--yes"],
        ["db.dump"],
        ["db.dump", "--check"],
        ["db.reset", "--yes"],
    ):
        done = project.invoke(*command, env=env, timeout=120)
        assert done.returncode == 0, f"{command}: {done.output}"
    assert project.rows("ops.migrations")[-1]["filename"] == "001_t.sql"


def test_a_database_for_tests_has_its_ledger_where_the_settings_say(
    tmp_path: Path, folder: Path, cluster: Cluster
) -> None:
    (folder / "001_make.sql").write_text("CREATE TABLE things (id int);")
    (folder / "002_grant.sql").unlink()
    (tmp_path / ".env").write_text("MIGRATIONS_TABLE=ops.migrations\n")
    with (
        testing.database(tmp_path, server=cluster.url("postgres")) as made,
        psycopg.connect(made) as conn,
    ):
        assert conn.execute("SELECT filename FROM ops.migrations").fetchall() == [("001_make.sql",)]


def test_only_roles_that_a_file_names_are_dropped_and_all_of_those_that_can_be(
    tmp_path: Path, url: str
) -> None:
    """Somebody else may make one of a shared server meanwhile: its name may be part of a word."""
    word = f"r{secrets.token_hex(6)}"
    made = [f"{word}_a", f"{word}_b", f"{word}_owns"]
    theirs = [word, f"{word}_table"]
    chosen = settings(url, tmp_path)
    (tmp_path / "001_r.sql").write_text("".join(f"CREATE ROLE {m.upper()};\n" for m in made))
    (tmp_path / "002_t.sql").write_text(f"CREATE TABLE {word}_table (id int);")
    with Connection.connect(url, autocommit=True) as conn:
        before = roles.names(conn)
        for name in (*made, *theirs):
            conn.execute(f"CREATE ROLE {name}".encode())
        conn.execute(f"CREATE SCHEMA theirs AUTHORIZATION {word}_owns".encode())
        try:
            roles.remove(conn, before, chosen)
            assert roles.names(conn) - before == {*theirs, f"{word}_owns"}
        finally:
            conn.execute("DROP SCHEMA theirs")
            for name in roles.names(conn) - before:
                if name.startswith(word):
                    conn.execute(f"DROP ROLE {name}".encode())
