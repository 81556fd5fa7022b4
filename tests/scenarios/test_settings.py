"""What the environment, `.env` and `invoke.yaml` say, and what may be wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import pq

from db.errors import SettingsError
from db.fleets import roster
from db.project import find_root
from db.scratch import clusters
from db.server import connection
from db.settings import NAMES, Settings, of_many, read
from tests.conftest import MakeCluster, Project
from tests.servers import DEPLOY, Cluster

URL = "postgresql://u:s3cret@server.example/app"


def where(root: Path, environment: dict[str, str], written: str = "") -> dict[str, str]:
    """Return libpq's parameters of these levels."""
    (root / ".env").write_text(written)
    return dict(read(root, None, environment).parameters)


# Which server


def test_a_server_of_the_environment_comes_before_the_url_of_the_file(
    project: Project, cluster: Cluster
) -> None:
    project.write("001_t.sql", "CREATE TABLE t (id int);")
    (project.folder / ".env").write_text("DATABASE_URL=embedded:\n")
    env = {"DATABASE_URL": None, "PGHOST": cluster.host, "PGPORT": str(cluster.port)}
    env |= {"PGUSER": "postgres", "PGDATABASE": project.database}
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_t.sql"]
    assert not (project.folder / ".postgres").exists()


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_what_names_a_server_in_the_environment_hides_the_servers_of_the_file(
    tmp_path: Path, name: str
) -> None:
    written = f"DATABASE_URL={URL}\nPGHOST=elsewhere\nPGPASSWORD=known\n"
    found = where(tmp_path, {name: "10.1.1.1"}, written.replace("DATABASE_URL", "#"))
    assert found == {name[2:].lower(): "10.1.1.1", "password": "known"}
    found = where(tmp_path, {name: "10.1.1.1"}, f"DATABASE_URL={URL}")
    assert found == {name[2:].lower(): "10.1.1.1"}


def test_a_url_of_the_environment_hides_the_servers_of_the_file(tmp_path: Path) -> None:
    written = "PGHOSTADDR=10.1.1.1\nPGPORT=5433\nPGDATABASE=dev\nPGSSLMODE=require\n"
    found = where(tmp_path, {"DATABASE_URL": "postgresql://u@server.example"}, written)
    assert found == {"user": "u", "host": "server.example", "sslmode": "require"}


def test_a_database_of_the_environment_comes_before_that_of_the_files_url(tmp_path: Path) -> None:
    found = where(tmp_path, {"PGDATABASE": "other", "PGUSER": "me"}, f"DATABASE_URL={URL}")
    assert (found["dbname"], found["host"], found["user"]) == ("other", "server.example", "u")


@pytest.mark.long
@pytest.mark.parametrize(
    ("url", "beside", "named"),
    [
        (URL, {"PGHOST": "other"}, "PGHOST"),
        (URL, {"PGDATABASE": "other"}, "PGDATABASE"),
        (URL, {"PGHOSTADDR": "10.1.1.1"}, "PGHOSTADDR"),
        (URL, {"PGSERVICE": "prod"}, "PGSERVICE"),
        (URL, {"PGHOST": "other", "PGDATABASE": "other"}, "PGDATABASE and PGHOST"),
        ("embedded:", {"PGHOST": "other"}, "PGHOST"),
        ("service=prod", {"PGHOST": "other"}, "PGHOST"),
    ],
)
@pytest.mark.parametrize("place", ["the environment", ".env"])
def test_two_targets_in_one_place_are_refused_with_both_named(
    project: Project, url: str, beside: dict[str, str], named: str, place: str
) -> None:
    said = {"DATABASE_URL": url, "PGPASSWORD": "s3cret", **beside}
    if place == ".env":
        text = "".join(f"{name}={value}\n" for name, value in said.items())
        (project.folder / ".env").write_text(text)
        done = project.invoke("db.migrate", env={"DATABASE_URL": None})
    else:
        done = project.invoke("db.migrate", env={**said})
    assert done.returncode == 2
    assert f"DATABASE_URL and {named}, both in {place}, name different targets." in done.stderr
    assert "s3cret" not in done.output


@pytest.mark.parametrize(
    ("url", "beside"),
    [
        (URL, {"PGHOST": "server.example", "PGDATABASE": "app"}),
        ("postgresql://u@server.example", {"PGDATABASE": "app"}),
        ("postgresql:///app", {"PGHOST": "server.example"}),
        ("host=server.example dbname=app", {"PGPORT": "5433", "PGUSER": "me"}),
    ],
    ids=["the same", "a database", "a host", "no target"],
)
def test_variables_beside_a_url_complete_it(
    tmp_path: Path, url: str, beside: dict[str, str]
) -> None:
    more = {"PGPASSWORD": "p", "PGSSLMODE": "require", "PGOPTIONS": "-c x=y", "PGAPPNAME": "a"}
    found = where(tmp_path, {"DATABASE_URL": url, **beside, **more})
    assert (found["host"], found["dbname"], found["options"]) == ("server.example", "app", "-c x=y")
    (tmp_path / ".env").unlink()
    assert read(tmp_path, None, {"DATABASE_URL": "embedded:", "PGDATABASE": "d"}).parameters == {
        "dbname": "d"
    }


def test_what_a_new_user_is_to_write_fits_a_terminal(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No database is named") as caught:
        read(tmp_path, None, {})
    lines = str(caught.value).splitlines()
    assert f"  {tmp_path / '.env'}" in lines
    assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line] == []
    for name in ("DATABASE_URL=embedded:", "DATABASE_URL=postgresql://", "PGHOST="):
        assert any(line.startswith(f"  {name}") for line in lines)


# Which names and values


@pytest.mark.parametrize("place", ["the environment", ".env", "invoke.yaml"])
def test_a_name_that_does_not_exist_is_refused_with_the_nearest(
    project: Project, place: str
) -> None:
    env = {"MIGRATIONS_TABEL": "x"} if place == "the environment" else {}
    if place == ".env":
        (project.folder / ".env").write_text("MIGRATIONS_TABEL=x\n")
    if place == "invoke.yaml":
        with (project.folder / "invoke.yaml").open("a") as file:
            file.write("db:\n  tabel: x\n")
    done = project.invoke("db.migrate-run", env={**env})
    nearest = "db.table" if place == "invoke.yaml" else "MIGRATIONS_TABLE"
    assert done.returncode == 2
    assert f", in {place}, is no setting." in done.stderr
    assert f"Did you mean {nearest}?" in done.stderr


@pytest.mark.parametrize("key", ["url", "password", "database_url", "pgpassword", "host"])
def test_a_target_or_password_in_invoke_yaml_is_refused_and_not_shown(
    project: Project, key: str
) -> None:
    with (project.folder / "invoke.yaml").open("a") as file:
        file.write(f"db:\n  {key}: s3cret\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert f"db.{key} does not belong in invoke.yaml" in done.stderr
    assert "s3cret" not in done.output


def test_each_level_comes_before_the_one_below(tmp_path: Path) -> None:
    committed = {"table": "three", "dir": "three", "lock-timeout": 1, "guard": False, "sync": None}

    def settings(environment: dict[str, str], written: str) -> Settings:
        (tmp_path / ".env").write_text(written)
        return read(tmp_path, committed, {"DATABASE_URL": URL, **environment})

    found = settings({"MIGRATIONS_TABLE": "one"}, "MIGRATIONS_TABLE=two\nMIGRATIONS_DIR=two")
    assert (found.ledger, found.folder) == ("one", tmp_path / "two")
    assert (found.lock_timeout_ms, found.guard, found.sync_each) == (1, False, False)
    found = settings({"MIGRATIONS_TABLE": "", "MIGRATIONS_DIR": " "}, "MIGRATIONS_DIR=")
    assert (found.ledger, found.folder) == ("three", tmp_path / "three")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("PGHOST=h\nMIGRATIONS_TABLE: ops.mine\n", 2),
        ("PGHOST=h\n\n  \nMIGRATIONS_TABLE:ops.mine\n", 4),
        ("PGHOST=h\r\n\r\nMIGRATIONS_TABLE='ops.mine \r\nPGUSER=u\r\n", 3),
        ('\ufeffMIGRATIONS_TABLE="ops.mine\nPGUSER="u"\n', 1),
        ("PGHOST=h\n=x", 2),
        ('PGHOST=h\nMIGRATIONS_TABLE="ops.mine\n\nSOME="\nPGUSER=u\n', 2),
        ("SOME='ops.mine\nexport PGUSER=u\nOTHER='\n", 1),
    ],
    ids=[
        *("a colon", "no space", "an open quote", "two quotes", "no name"),
        *("a quote that takes in another name", "a quote that takes in one of ours"),
    ],
)
def test_a_line_of_the_file_that_says_nothing_is_refused_by_its_number(
    tmp_path: Path, text: str, line: int
) -> None:
    (tmp_path / ".env").write_bytes(text.encode())
    with pytest.raises(SettingsError, match=rf"^\.env:{line} cannot be understood\.") as caught:
        read(tmp_path, None, {})
    assert "ops.mine" not in str(caught.value)
    assert "NAME=value" in str(caught.value)


def test_what_the_file_may_hold_besides(tmp_path: Path) -> None:
    written = (
        "# a comment\n\nexport PGHOST=h  # another\nPGUSER='u # 1'\nFROM_DOCKER\nexport OTHER\n"
        'PGPASSWORD="a\\nb ${HOME}"\nPGPORT=\nMIGRATIONS_TABLE=one\nMIGRATIONS_TABLE=\n \n'
    )
    found = where(tmp_path, {}, written)
    assert found == {"host": "h", "user": "u # 1", "password": "a\nb ${HOME}"}
    assert read(tmp_path, None, {}).ledger == "migrations"
    key = "-----BEGIN KEY-----\nQUJD\nQUI=\n-----END KEY-----"
    found = where(
        tmp_path, {}, f"KEY='{key}'\nPGHOST=h\nMIGRATIONS_DRIFT_IGNORE='TABLE a,\nTABLE b'\n"
    )
    assert found == {"host": "h"}
    assert read(tmp_path, None, {}).drift_ignore == ("TABLE a", "TABLE b")


@pytest.mark.parametrize(
    ("written", "password"),
    [
        (r"p@ss:w/o?r#d% x\n${HOME}", r"p@ss:w/o?r#d% x\n${HOME}"),
        ("a'b\"c", "a'b\"c"),
        ("'\"quoted\"'", '"quoted"'),
        ("'a #b'", "a #b"),
        ("'\\'a'", "'a"),
    ],
)
def test_a_password_in_the_file_is_not_escaped_but_may_need_quotes(
    tmp_path: Path, written: str, password: str
) -> None:
    assert where(tmp_path, {"PGHOST": "h"}, f"PGPASSWORD={written}\n")["password"] == password


def test_a_number_alone_is_a_duration(tmp_path: Path) -> None:
    names = [name for name in NAMES if name.endswith(("_TIMEOUT", "_WAIT"))]
    found = read(tmp_path, None, {"DATABASE_URL": URL, **dict.fromkeys(names, "7")})
    assert len(names) == 3
    assert (found.connect_timeout_s, found.lock_timeout_ms, found.lock_wait_s) == (7, 7, 7)
    found = read(tmp_path, None, {"DATABASE_URL": URL, **dict.fromkeys(names, "1d")})
    assert (found.connect_timeout_s, found.lock_timeout_ms) == (86_400, 86_400_000)


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "5432,x", "5432.0"])
def test_a_port_that_is_none_is_refused_before_it_is_waited_for(tmp_path: Path, port: str) -> None:
    given = {
        "DATABASE_URL": {"DATABASE_URL": f"host=h dbname=d port='{port}'"},
        "MIGRATIONS_SCRATCH": {"PGHOST": "h", "MIGRATIONS_SCRATCH": f"postgresql:///d?port={port}"},
        "PGPORT": {"PGHOST": "h", "PGPORT": port},
    }
    for name, environment in given.items():
        with pytest.raises(SettingsError, match=f"The port in {name} is no number from 1 to"):
            read(tmp_path, None, environment)
    behind_the_host = f"postgresql://u:p@h1:1,h2:{port.rpartition(',')[2]}/d"
    assert "The port in DATABASE_URL" in refused(tmp_path, {"DATABASE_URL": behind_the_host})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h1:5432,h2:65535/d",
        "postgresql://h1,h2:1/d",
        "postgresql://h1:/d",
        "postgresql://[::1]:5432/d",
        "postgresql:///d?host=/tmp&port=5432",
        "host=h1,h2 port=,5433 dbname=d",
        "host=h port=' 05432 ' dbname=d",
    ],
)
def test_a_port_that_libpq_takes_is_taken(tmp_path: Path, url: str) -> None:
    assert read(tmp_path, None, {"DATABASE_URL": url}).parameters["dbname"] == "d"


@pytest.mark.parametrize(
    ("environment", "written", "origin"),
    [
        ({"DATABASE_URL": URL}, "", "DATABASE_URL in the environment"),
        ({"DATABASE_URL": URL}, "PGUSER=u", "DATABASE_URL in the environment"),
        ({}, f"DATABASE_URL={URL}", "DATABASE_URL in .env"),
        (
            {"PGPORT": "1"},
            f"DATABASE_URL={URL}",
            "DATABASE_URL in .env and the PG* variables beside it",
        ),
        ({"PGHOST": "h"}, "", "the PG* variables in the environment"),
        ({"PGHOST": "h"}, "PGHOST=g", "the PG* variables in the environment"),
        ({}, "PGHOST=h", "the PG* variables in .env"),
        ({"PGDATABASE": "d"}, "PGUSER=u", "the PG* variables in the environment and .env"),
    ],
)
def test_the_settings_know_what_names_the_target(
    tmp_path: Path, environment: dict[str, str], written: str, origin: str
) -> None:
    (tmp_path / ".env").write_text(written)
    assert read(tmp_path, None, environment).origin == origin


@pytest.mark.parametrize("committed", ["sql", ["sql"], {"dir": ["sql"]}, {"dir": {"a": "b"}}])
def test_a_committed_value_of_another_kind_is_refused(tmp_path: Path, committed: object) -> None:
    with pytest.raises(SettingsError, match=r"in invoke\.yaml"):
        read(tmp_path, committed, {"DATABASE_URL": URL})


def test_an_empty_folder_setting_is_not_the_whole_project(project: Project) -> None:
    project.write("001_t.sql", "CREATE TABLE t (id int);")
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_DIR": "", "MIGRATIONS_TABLE": ""})
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_t.sql"]


@pytest.mark.parametrize("value", ["l" * 53, "ü" * 27, f"ops.{'l' * 53}", f"{'s' * 64}.migrations"])
def test_a_table_whose_name_would_be_cut_is_refused(project: Project, value: str) -> None:
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_TABLE": value})
    assert done.returncode == 2
    assert "a table's name may have 52 bytes" in done.stderr


@pytest.mark.parametrize("value", ["l" * 52, f"public.{'l' * 52}"])
def test_a_ledger_of_the_longest_name_is_one_with_its_progress(
    project: Project, value: str
) -> None:
    env = {"MIGRATIONS_TABLE": value}
    project.write("001_t.sql", "-- migrate: no-transaction\nCREATE TABLE t (id int);\nVACUUM t;\n")
    for command in ("db.migrate-run", "db.migrate-run", "db.dump"):
        done = project.invoke(command, *["--force"] * (command == "db.dump"), env=env)
        assert done.returncode == 0, done.output
    assert "_unfinished" not in (project.folder / "db" / "schema.sql").read_text()


@pytest.mark.parametrize(
    "value", ["migrations          # or schema.table", "# comment", "ops.", ".migrations", "."]
)
def test_a_table_that_is_none_is_a_sentence(project: Project, value: str) -> None:
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_TABLE": value})
    assert done.returncode == 2
    assert "MIGRATIONS_TABLE" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "command",
    [
        ["db.rollback", "--steps", "abc"],
        ["db.rollback", "--steps", "0"],
        ["db.rollback", "--steps", "1.5"],
        ["db.wait", "--timeout", "x"],
        ["db.wait", "--timeout", "-5"],
    ],
    ids=" ".join,
)
def test_a_number_that_is_none_is_a_sentence(project: Project, command: list[str]) -> None:
    done = project.invoke(*command)
    assert done.returncode == 2
    assert command[1] in done.stderr
    assert "Traceback" not in done.output


# What a URL or a password is made into that is no value; the password is in each of them.
BROKEN = [
    f"{URL} # the old one",
    f"# {URL}",
    f"{URL} #",
    f"mysql{URL}",
    f"x {URL}",
    f"{URL}?unknown=1",
    URL.replace("s3cret", "s3cr@s3cret"),
    URL.replace("s3cret", "s3cret%"),
    URL.replace("server.example", "server.example:s3cret"),
    URL.replace("server.example", "server.example:0"),
    "postgresql://u:s3cret/app",
    "host=h password = 's3cret' passwor=s3cret",
    "host=h password = a s3cret=1",
    "host=h password=s3cret port=s3cret",
    "host=h password='s3cret",
    "host=u:s3cret@h dbname=d",
    f"host='{URL}' dbname=d",
    "host=h dbname='password=s3cret'",
]
# How a line of .env may be written that does not say it.
LINES = ["{}={}", "{}: {}", "{}:{}", "{} {}", "{}='{}", '{}="{}', "{}='{}' x", "x {}={}"]
LIBPQ = {o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
MAY_HOLD_PASSWORD = {"DATABASE_URL", "PGPASSWORD", "MIGRATIONS_SCRATCH"}


def refused(root: Path, environment: dict[str, str], committed: object = None) -> str:
    """Return all that an error of these settings shows, or else of what they name."""
    environ = {"PGHOST": "h"} if "DATABASE_URL" not in environment else {}
    try:
        found = read(root, committed, {**environ, **environment})
        of_many(root, committed, environment)(URL)
    except SettingsError as error:
        return f"{error!r} {error}"
    return connection.outside(found).shown


@pytest.mark.parametrize("name", sorted({*NAMES, "DATABASE_URL", *LIBPQ}))
def test_no_message_about_a_setting_shows_a_password(tmp_path: Path, name: str) -> None:
    values = [
        *BROKEN,
        *(["s3cret # x", "s3cret", "u:s3cret@h"] if name in MAY_HOLD_PASSWORD else []),
    ]
    values += ["u:s3cret@h", "u:s3cret@h:5432/d"] if name.startswith("PGHOST") else []
    said = []
    for value in values:
        said.append(refused(tmp_path, {name: value}))
        key = name.removeprefix("MIGRATIONS_").lower()
        said.append(refused(tmp_path, {}, {key: value}))
        for line in LINES:
            (tmp_path / ".env").write_text("\n" + line.format(name, value) + "\n")
            said.append(refused(tmp_path, {}))
        (tmp_path / ".env").unlink()
    assert any(said)
    assert not [each for each in said if "s3cret" in each]


@pytest.mark.parametrize("line", BROKEN[3:])  # a comment is one there
def test_a_fleets_line_is_not_shown(tmp_path: Path, line: str) -> None:
    path = tmp_path / "targets.txt"
    for text in (line, f"a={line}", f"a {line}"):
        path.write_text(f"\n{text}\n")
        with pytest.raises(SettingsError, match=r"^line 2 of ") as caught:
            roster.of_file(path, of_many(tmp_path, None, {}))
        assert "s3cret" not in f"{caught.value!r} {caught.value}"
        assert "The URL" not in str(caught.value)


def test_what_is_no_value_is_quoted_where_it_holds_no_password(tmp_path: Path) -> None:
    assert "value: ops.mine # x" in refused(tmp_path, {"MIGRATIONS_TABLE": "ops.mine # x"})
    assert "MIGRATIONS_SYNC=always is" in refused(tmp_path, {"MIGRATIONS_SYNC": "always"})
    assert "MIGRATIONS_TABLE holds what may be a URL" in refused(
        tmp_path, {"MIGRATIONS_TABLE": URL}
    )


def test_no_repr_of_the_settings_holds_a_password(tmp_path: Path) -> None:
    assert "s3cret" not in repr(read(tmp_path, None, {"DATABASE_URL": URL}))


# What cannot be read or written


# File permissions do not hold for root, unless it lets go of that right.
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if not os.geteuid() else []


@pytest.mark.long
@pytest.mark.parametrize("name", [".env", "closed/migrations", "unlisted"])
def test_what_cannot_be_read_is_a_sentence(project: Project, name: str) -> None:
    path = project.folder / name
    if name == ".env":
        path.write_text("PGUSER=u\n")
    else:
        path.mkdir(parents=True)
    closed = path.parent if name.startswith("closed") else path
    closed.chmod(0)
    for command in (["db.migrate"], ["db.new", "x"]):
        done = subprocess.run(
            [*AS_OTHERS, Path(sys.executable).parent / "invoke", *command],
            cwd=project.folder,
            env=project.environment({} if name == ".env" else {"MIGRATIONS_DIR": name}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert f"{name} cannot be read: Permission denied." in done.stderr
        assert "Traceback" not in done.stderr
    closed.chmod(0o755)


@pytest.mark.long
@pytest.mark.parametrize("name", ["closed", "closed/schema.sql"])
def test_a_base_schema_or_a_dump_that_cannot_be_read_is_a_sentence(
    project: Project, name: str
) -> None:
    (project.folder / "closed").mkdir()
    (project.folder / "closed" / "schema.sql").write_text("SELECT 1;")
    project.write("001_t.sql", "CREATE TABLE t (id int);")
    closed = project.folder / name
    closed.chmod(0)
    url = project.cluster.url(project.database, role=DEPLOY)  # the socket is closed as well
    env = project.environment({"MIGRATIONS_SCHEMA": "closed/schema.sql", "DATABASE_URL": url})
    for command in (["db.migrate"], ["db.dump"], ["db.dump", "--check"], ["db.status"]):
        done = subprocess.run(
            [*AS_OTHERS, Path(sys.executable).parent / "invoke", *command],
            cwd=project.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        if command != ["db.status"] or name == "closed":
            assert done.returncode == 2, done.stderr
            assert "closed/schema.sql cannot be read: Permission denied." in done.stderr
    closed.chmod(0o755)


def test_a_user_without_a_home_has_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user is a number."""

    def nobody(_: int) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    (tmp_path / "migrations").mkdir()
    assert find_root(tmp_path / "migrations", {}) == tmp_path
    kept = clusters.kept_at("scratch")
    assert kept.name.endswith("-scratch-54321")


@pytest.mark.long
def test_create_on_a_standby_is_a_sentence(project: Project, own_cluster: MakeCluster) -> None:
    cluster = own_cluster()
    there = Project.at(project, cluster)
    cluster.stop()
    (cluster.data / "standby.signal").touch()
    cluster.start()
    done = there.invoke("db.create", env={"DATABASE_URL": cluster.url("not_there")})
    assert done.returncode == 2
    assert "read-only transaction" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.long
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_run_goes_on_though_a_stream_is_closed(project: Project, closed: str) -> None:
    project.write("001_t.sql", "CREATE TABLE t (id int);")
    command = f"invoke db.migrate-run {closed}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert project.executed() == ["001_t.sql"]


_MAKES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("place", [".env", "db/schema.sql"])
@pytest.mark.parametrize("kind", _MAKES)
def test_what_is_no_file_is_refused_and_not_waited_for(
    project: Project, place: str, kind: str
) -> None:
    project.write("001_t.sql", "CREATE TABLE t (id int);")
    path = project.folder / place
    path.unlink(missing_ok=True)
    _MAKES[kind](path)
    for command in ("db.status", "db.migrate", "db.dump"):
        done = project.invoke(command)
        assert done.returncode == 2, done.output
        what = "a folder" if kind == "a folder" else "no regular file"
        assert f"{path.resolve() if kind != 'a device' else path} is {what}." in done.stderr
    assert project.rows() == []


# A folder without migrations


@pytest.mark.parametrize("layout", ["empty", "folders"])
def test_a_folder_without_migrations_is_a_warning_and_fails_a_check(
    project: Project, layout: str
) -> None:
    if layout == "folders":
        inside = project.migrations / "20240101_init"
        inside.mkdir()
        (inside / "migration.sql").write_text("CREATE TABLE t (id int);")
    said = "the folder migrations holds no migrations"
    said += ", but folders, such as 20240101_init" if layout == "folders" else ""
    for command in ("db.migrate-run", "db.status"):
        done = project.invoke(command)
        assert done.returncode == 0, done.output
        assert f"warning: {said}" in done.stdout
    done = project.invoke("db.status", "--check")
    assert done.returncode == 3
    assert said.removeprefix("the") in done.stderr


@pytest.mark.parametrize("host", ["db..example.com", f"{'a' * 64}.example.com", ".example.com"])
def test_a_host_that_no_name_can_be_is_said_at_once(project: Project, host: str) -> None:
    done = project.invoke("db.status", env={"DATABASE_URL": f"postgresql://u:p@{host}/d"})
    assert done.returncode == 2, done.output
    assert "a part of the host's name is empty or longer than 63 bytes" in done.stderr
    assert done.seconds < 15  # and not after MIGRATIONS_CONNECT_TIMEOUT


@pytest.mark.parametrize("url", ["postgresql://u:caf%E9@127.0.0.1:1/d", "postgresql://h/caf%E9"])
def test_a_url_that_is_not_utf8_is_a_sentence(project: Project, url: str) -> None:
    done = project.invoke("db.status", env={"DATABASE_URL": url})
    assert done.returncode == 2, done.output
    assert "DATABASE_URL holds a percent-encoded character that is not UTF-8." in done.stderr
