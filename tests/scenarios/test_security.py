"""No secret gets out, no name gets into SQL, no certificate is believed too easily."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import sql

from db import migrate
from db.errors import ConnectionFailed, MigrationsError
from db.events import Event
from db.server import embedded, postmaster
from db.server.connection import Target
from db.settings import from_values
from tests.conftest import Project
from tests.proxy import Proxy
from tests.scenarios.test_engine import running, scalar, wait_for
from tests.servers import Cluster, PgBouncer, free_port, temporary_folder

HUSH = "Hush"  # stands in every password here, and nowhere else
PASSWORD = f"{HUSH}@:/?#% '\\&1{HUSH}"


# 1. Passwords


@dataclass(frozen=True, slots=True)
class Where:
    """A target, to be written as a URL or as PG* variables."""

    dbname: str
    port: int
    host: str = "127.0.0.1"
    user: str = "awkward"
    password: str = PASSWORD
    sslmode: str = "prefer"

    @property
    def url(self) -> str:
        user, password = quote(self.user, safe=""), quote(self.password, safe="")
        place = f"{self.host}:{self.port}/{self.dbname}"
        return f"postgresql://{user}:{password}@{place}?sslmode={self.sslmode}"

    def environment(self, form: str) -> dict[str, str | None]:
        given: dict[str, str | None] = {"DATABASE_URL": self.url}
        if form == "variables":
            variables = {
                "DATABASE": self.dbname,
                "PORT": str(self.port),
                **{k.upper(): v for k, v in asdict(self).items() if k not in ("dbname", "port")},
            }
            given = {"DATABASE_URL": None} | {f"PG{k}": v for k, v in variables.items()}
        return {**given, "MIGRATIONS_CONNECT_TIMEOUT": "0s"}


@pytest.fixture
def where(cluster: Cluster, database: str) -> Iterator[Where]:
    """The test's database, as a role whose password is hard to write."""
    with cluster.connect(database) as conn:
        conn.execute("CREATE ROLE awkward LOGIN")
        query = sql.SQL("ALTER ROLE awkward PASSWORD {}")
        conn.execute(query.format(sql.Literal(PASSWORD)))
        conn.execute("GRANT ALL ON SCHEMA public TO awkward")
        conn.execute("GRANT pg_read_all_stats TO awkward")
    yield Where(database, cluster.port)
    with cluster.connect(database) as conn:
        conn.execute("DROP OWNED BY awkward CASCADE")
        conn.execute("DROP ROLE awkward")


def quiet(*said: object) -> None:
    """Assert that nothing of a password is in it, nor what nobody has caught."""
    for text in map(str, said):
        assert HUSH.lower() not in text.lower()
        assert quote(PASSWORD, safe="") not in text
        assert "Traceback" not in text


@pytest.mark.parametrize("form", ["URL", "variables"])
@pytest.mark.parametrize(
    ("fault", "code", "expected"),
    [
        ("none", 0, "001_activity.sql"),
        ("host", 2, "Cannot connect"),
        ("port", 2, "Cannot connect"),
        ("port number", 2, "The port in "),
        ("password", 2, "password authentication failed"),
        ("database", 2, "may not create it"),
        ("tls", 2, "SSL"),
        ("sslmode", 2, "sslmode"),
        ("statement", 1, "nonsense"),
        ("setting", 2, "MIGRATIONS_LOCK_WAIT"),
    ],
)
def test_no_output_holds_a_password(  # noqa: PLR0917
    project: Project, where: Where, form: str, fault: str, code: int, expected: str
) -> None:
    project.write("001_activity.sql", "CREATE TABLE seen AS SELECT * FROM pg_stat_activity;")
    if fault == "statement":
        project.write("002_x.sql", "SELECT nonsense;")
    wrong: dict[str, dict[str, Any]] = {
        "host": {"host": "no-such-host.invalid"},
        "port": {"port": free_port()},
        "port number": {"port": 99999},
        "password": {"password": f"{PASSWORD}x"},
        "database": {"dbname": "missing"},
        "tls": {"sslmode": "require"},
        "sslmode": {"sslmode": "nonsense"},
    }
    parts: dict[str, Any] = {**asdict(where), **wrong.get(fault, {})}
    env = Where(**parts).environment(form)
    if fault == "setting":
        env["MIGRATIONS_LOCK_WAIT"] = "soon"
    command = ["db.migrate-run", "--json"] if form == "variables" else ["db.migrate-run"]
    if fault == "database":
        command[0] = "db.migrate"
    done = project.invoke(*command, env=env)
    assert done.returncode == code, done.output
    assert expected in done.output
    quiet(done.output)
    if code < 2:
        quiet(scalar(project, "SELECT string_agg(seen::text, ' ') FROM seen"))


@pytest.mark.long
@pytest.mark.parametrize("form", ["URL", "variables"])
@pytest.mark.parametrize("fault", ["interrupted", "lost"])
def test_no_output_of_a_run_cut_short_holds_a_password(
    project: Project, where: Where, proxy: Proxy, form: str, fault: str
) -> None:
    project.write("001_x.sql", "SELECT pg_sleep(60);")
    env = Where(**{**asdict(where), "port": proxy.port}).environment(form)
    more = ["--json"] if form == "variables" else []
    process = project.popen("db.migrate-run", *more, env=env)
    wait_for(running(project, "pg_sleep(60)"))
    with project.cluster.connect(project.database) as conn:
        quiet(conn.execute("SELECT * FROM pg_stat_activity").fetchall())
    if fault == "lost":
        proxy.refuse()
        proxy.cut()
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (1 if fault == "lost" else 130)
    assert "001_x.sql" in out + err
    quiet(out, err)


@pytest.mark.parametrize(
    "url",
    [
        *(f"postgresql://u:{HUSH}{c}{HUSH}@127.0.0.1:1/d" for c in "@:/?#% []&'\\\t"),
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/d",
        f"postgresql://{HUSH}@{HUSH}:{HUSH}@127.0.0.1:1/d",
        f"postgresql://u:{HUSH}@127.0.0.1:port/d",
        f"postgresql://u:{HUSH}@127.0.0.1:99999/d",
        f"postgresql://u:{HUSH}@[::1/d",
        f"postgresql://u:{HUSH}@127.0.0.1:1/d?sslmode",
        f"postgresql://u:{HUSH}@127.0.0.1:1/d?sslmode=%zz",
        f"postgresql://u@127.0.0.1:1/d?password={HUSH}%zz",
        f"postgresql://u@127.0.0.1:1/d?password={HUSH}&passwd={HUSH}",
        f"postgresql://u@127.0.0.1:1/d?password={HUSH}&{HUSH}",
        f"postgresql://u:{HUSH}%00@127.0.0.1:1/d",
        f"postgresql://u:{HUSH}%E9@127.0.0.1:1/d",
        f"postgresql://u:{HUSH}@127.0.0.1:1/caf%E9",
        f"postgresql://u@127.0.0.1:1/d?password={HUSH}%E9",
        f"postgresql://u:{HUSH}@db..example.com/d",
        f"postgresql:/u:{HUSH}@127.0.0.1/d",
        f"u:{HUSH}@127.0.0.1/d",
        f"mysql://u:{HUSH}@127.0.0.1/d",
        f"{HUSH}",
        f"host=127.0.0.1 port=1 password={HUSH} {HUSH}",
        f"host=127.0.0.1 port=1 password='{HUSH}",
        f"host=127.0.0.1 port=1 password={HUSH}\\",
        f"host=127.0.0.1 port=1 password=a {HUSH}=1",
        f"postgresql://u@127.0.0.1:1/d?password=a&{HUSH}=1",
        f"host=127.0.0.1 port=1 pass={HUSH}",
    ],
)
def test_no_error_about_a_bad_url_holds_a_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(MigrationsError) as caught:
        migrate(url, tmp_path, settings={"MIGRATIONS_CONNECT_TIMEOUT": "0s"})
    error = caught.value
    quiet(error, repr(error), error.args, error.message, *error.advice, vars(error))
    whole = "".join(traceback.format_exception(error))
    assert HUSH not in whole


def test_a_password_in_another_encoding_is_a_sentence_without_it() -> None:
    there = {"host": "127.0.0.1", "port": "1", "dbname": "d", "password": f"{HUSH}\udce9"}
    with pytest.raises(ConnectionFailed, match="password is not UTF-8") as caught:
        Target(there, 0).once("test")
    assert caught.value.__context__ is None
    quiet(caught.value, *caught.value.advice)


@pytest.mark.parametrize("password", ["n", "public", "the database"])
def test_a_password_that_is_a_word_takes_no_word_out_of_a_message(
    project: Project, where: Where, password: str
) -> None:
    secret = where.dbname if password == "the database" else password
    with project.cluster.connect(project.database) as conn:
        conn.execute(sql.SQL("ALTER ROLE awkward PASSWORD {}").format(sql.Literal(secret)))
        conn.execute("REVOKE CREATE ON SCHEMA public FROM awkward, PUBLIC")
    url = f"postgresql://awkward:{secret}@127.0.0.1:{where.port}"
    project.write("001_x.sql", "SELECT 1;")
    refused = project.invoke("db.migrate-run", env={"DATABASE_URL": f"{url}/{where.dbname}"})
    assert "permission denied for schema public" in refused.stderr
    missing = project.invoke("db.status", env={"DATABASE_URL": f"{url}/{where.dbname}2"})
    assert f'database "{where.dbname}2" does not exist' in missing.stderr


@pytest.mark.parametrize("character", [chr(n) for n in range(1, 128)], ids=ascii)
def test_a_url_is_refused_or_its_password_is_whole(tmp_path: Path, character: str) -> None:
    url = f"postgresql://u:{HUSH}{character}{HUSH}@127.0.0.1:1/d"
    try:
        parameters = from_values({}, url, root=tmp_path).parameters
    except MigrationsError as error:
        quiet(error, *error.advice)
    else:
        assert parameters["password"] == f"{HUSH}{character}{HUSH}"
        quiet({name: value for name, value in parameters.items() if name != "password"})


def test_no_event_holds_a_password(project: Project, where: Where) -> None:
    project.write(
        "001_x.sql", "CREATE TABLE x (id int);\nDO $$ BEGIN RAISE NOTICE 'hello'; END $$;"
    )
    project.write("002_x.sql", "SELECT nonsense;")
    events: list[Event] = []
    with pytest.raises(MigrationsError) as caught:
        migrate(where.url, project.migrations, on_event=events.append)
    assert len(events) > 3
    quiet(*map(repr, events), repr(caught.value), vars(caught.value))


# 2. Names


EVIL = "001_x'); drop table users;--.sql"


@pytest.mark.parametrize("head", ["", "-- migrate: no-transaction\n"], ids=["whole", "in units"])
def test_a_file_name_is_never_sql(project: Project, head: str) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE users (id int)")
    project.write(EVIL, f"{head}CREATE TABLE x (id int);\nSELECT nonsense;\n")
    project.write(EVIL.replace(".sql", ".down.sql"), "DROP TABLE x;")
    assert project.invoke("db.migrate-run").returncode == 1
    if head:
        assert project.invoke("db.repair", "--name", EVIL, "--forget", "--yes").returncode == 0
    project.write(EVIL, f"{head}CREATE TABLE IF NOT EXISTS x (id int);\n")
    for command in (
        ("db.migrate-run",),
        ("db.status",),
        ("db.repair", "--name", EVIL, "--forget", "--yes"),
        ("db.repair", "--name", EVIL, "--mark", "--yes"),
        ("db.rollback", "--yes"),
        ("db.migrate-single", "--name", EVIL),
    ):
        done = project.invoke(*command)
        assert done.returncode == 0, done.output
    assert project.executed() == [EVIL]
    assert scalar(project, "SELECT to_regclass('users') IS NOT NULL") is True


ODD = "odd\"na'me; %s %(x)s {y} --"


@pytest.mark.long
@pytest.mark.parametrize("table", [ODD, f"{ODD}.{ODD}", "Größe"])
def test_the_ledger_may_have_any_name(project: Project, table: str) -> None:
    schema, _, name = table.rpartition(".")
    with project.cluster.connect(project.database) as conn:
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(ODD)))
        conn.execute("CREATE TABLE users (id int)")
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    project.write(
        "002_y.sql",
        "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY i ON x (id);\n"
        "-- migrate: repeat until 0 rows, pause 0ms\nSELECT 1 WHERE false;\n",
    )
    project.write("003_z.sql", "CREATE TABLE z (id int);")
    project.write("003_z.down.sql", "DROP TABLE z;")
    env = {"MIGRATIONS_TABLE": table}
    for command in (
        ("db.migrate-run",),
        ("db.status", "--check"),
        ("db.verify",),
        ("db.repair", "--name", "003_z.sql", "--accept", "--yes"),
        ("db.rollback", "--yes"),
        ("db.repair", "--name", "003_z.sql", "--mark", "--yes"),
        ("db.repair", "--name", "003_z.sql", "--forget", "--yes"),
        ("db.migrate-run",),
    ):
        done = project.invoke(*command, env=env)
        assert done.returncode == 0, (command, done.output)
    with project.cluster.connect(project.database) as conn:
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema or "public", name))
        assert conn.execute(query).fetchone() == (3,)


def test_role_and_database_may_have_any_name(project: Project, cluster: Cluster) -> None:
    with cluster.connect() as conn:
        for what in ("DATABASE", "ROLE"):
            conn.execute(sql.SQL(f"CREATE {what} {{}}").format(sql.Identifier(ODD)))
    try:
        with cluster.connect(ODD) as conn:
            query = sql.SQL("GRANT ALL ON SCHEMA public TO {}")
            conn.execute(query.format(sql.Identifier(ODD)))
        project.write("001_x.sql", "CREATE TABLE x (id int);")
        index = "CREATE INDEX CONCURRENTLY i ON x (id);"
        project.write("002_y.sql", f"-- migrate: no-transaction\n{index}")
        env = {"DATABASE_URL": cluster.url(ODD), "MIGRATIONS_ROLE": ODD}
        done = project.invoke("db.migrate-run", env=env)
        assert done.returncode == 0, done.output
        assert ODD in done.stdout.splitlines()[0]
        with cluster.connect(ODD) as conn:
            query = sql.SQL("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'i'")
            assert conn.execute(query).fetchone() == (sql.Identifier(ODD).as_string(None),)
        for name in (f"new {ODD}", ODD):
            env = {"DATABASE_URL": cluster.url(name)}
            assert project.invoke("db.create", env=env).returncode == 0
            done = project.invoke("db.drop", "--yes", env=env)
            assert done.returncode == 0, done.output
    finally:
        cluster.drop_database(ODD)
        with cluster.connect() as conn:
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ODD)))


# 3. The folder


def test_a_link_out_of_the_folder_is_a_file_like_any_other(
    project: Project, tmp_path: Path
) -> None:
    outside = tmp_path / "elsewhere.sql"
    outside.write_text("CREATE TABLE x (id int);")
    (project.migrations / "001_x.sql").symlink_to(outside)
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == ["001_x.sql"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dangling", "fifo", "folder", "itself", "device"])
def test_what_is_no_file_is_refused_and_nothing_runs(project: Project, kind: str) -> None:
    project.write("001_ok.sql", "SELECT 1;")
    path = project.migrations / "002_odd.sql"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        target = {"dangling": "nowhere", "itself": "002_odd.sql", "device": "/dev/zero"}[kind]
        path.symlink_to(target)
    for command in (("db.migrate-run",), ("db.migrate-single", "002_odd.sql"), ("db.status",)):
        done = project.invoke(*command, timeout=30)
        assert done.returncode == 2, done.output
        assert "migrations/002_odd.sql" in done.stderr
        assert "Traceback" not in done.output
    assert project.rows() == []


def test_a_folder_named_dot_sql_is_passed_over(project: Project) -> None:
    (project.migrations / ".sql").mkdir()
    project.write("001_ok.sql", "SELECT 1;")
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == ["001_ok.sql"]


# 4. Certificates


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """A folder with two authorities, and a server's certificate for localhost of the first."""
    folder = temporary_folder()
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    for name in ("right", "wrong"):
        subject = ("-subj", f"/CN={name}")
        key, made = str(folder / f"{name}.key"), str(folder / f"{name}.crt")
        openssl(*new, *subject, "-keyout", key, "-out", made)
    server = folder / "server.crt"
    openssl(
        *(*new, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-CA", str(folder / "right.crt"), "-CAkey", str(folder / "right.key")),
        *("-keyout", str(folder / "server.key"), "-out", str(server)),
    )
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("host", "authority", "code"),
    [("localhost", "right", 0), ("localhost", "wrong", 2), ("127.0.0.1", "right", 2)],
    ids=["its own", "of an unknown authority", "of another host"],
)
def test_a_certificate_has_to_be_right(  # noqa: PLR0917
    project: Project,
    cluster: Cluster,
    pgbouncer: PgBouncer,  # where there is none, this is left out
    certificates: Path,
    host: str,
    authority: str,
    code: int,
) -> None:
    del pgbouncer
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    key = certificates / "server.key"
    os.chown(key, cluster.who.uid, cluster.who.gid)
    settings = {
        "client_tls_sslmode": "require",
        "client_tls_key_file": str(key),
        "client_tls_cert_file": str(certificates / "server.crt"),
    }
    pooler = PgBouncer(cluster, settings=settings)
    try:
        url = pooler.url(project.database).replace("127.0.0.1", host)
        trusted = quote(str(certificates / f"{authority}.crt"), safe="")
        full = f"{url}?sslmode=verify-full&sslrootcert={trusted}"
        done = project.invoke("db.migrate-run", env={"DATABASE_URL": full})
    finally:
        pooler.remove()
    assert done.returncode == code, done.output
    assert project.executed() == ([] if code else ["001_x.sql"])
    if code:
        assert "certificate" in done.stderr
        assert "waiting" not in done.stdout  # it would not come by waiting
        assert done.seconds < 20


# 5. The embedded server


@pytest.mark.long
def test_the_embedded_server_is_reached_by_its_owner_only(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "own") as server:
        folder = Path(server.host)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == postmaster.account().uid
        inodes = set()
        for fd in Path(f"/proc/{server.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                inodes.add(str(fd.readlink()).removeprefix("socket:[").removesuffix("]"))
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]
            assert not inodes & {line.split()[9] for line in lines}
