"""What the documentation says is tried: its commands, its files, its tables, its links."""

from __future__ import annotations

import re
import runpy
import secrets
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from tests.conftest import Project

ROOT = Path(__file__).resolve().parents[1]
INVOKE = Path(sys.executable).parent / "invoke"
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "docs", ROOT / "migrations")
    for path in folder.glob("*.md")
)
FIRST = "001_add_whatsapp_instances_table.sql"

# Command blocks that are not run here, by the text that they begin with.
_INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install -q -e"
NOT_RUN = {
    ("README.md", f"{_INSTALL} '.[embedded]'"): ".ci/run runs it, twice, on a clean checkout",
    ("README.md", f"{_INSTALL} '.[dev]'"): ".ci/run runs it, and it runs this test",
    **{
        ("README.md", begin): "tests/test_installed.py runs it, in another repository"
        for begin in (
            "pip install -q invoke-pg-migrations",
            'invoke db.new "create orders"\ninvoke db.migrate\n',
            "invoke-pg-migrations init",
            "invoke-pg-migrations new",
            "invoke pg.migrate seed",
            "for database in orders billing",
        )
    },
    ("docs/deploying.md", "pip install -q -e"): "the environment of the tests has it installed",
    ("docs/deploying.md", "docker build"): "there is no Docker daemon where the tests run",
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page, in order; those inside of lists are dedented."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```$", text_of(page), re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(block) for _, block in found]


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the body of the table whose head begins with these words."""
    _, _, rest = text_of(page).partition(f"\n| {heading} |")
    assert rest, f"{page} has no table that begins with {heading}"
    body = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


def with_the_first_migration(project: Project) -> None:
    shutil.copy(ROOT / "migrations" / FIRST, project.migrations)


# Commands


def before_a_migration(project: Project) -> None:
    with_the_first_migration(project)
    assert project.invoke("db.migrate").returncode == 0
    project.write("002_x.sql", "SELECT 1;")


def of_another_tool(project: Project) -> None:
    project.write_schema("")
    project.write("001_theirs.sql", "CREATE TABLE theirs (id int);")
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE theirs (id int)")


def of_tenants(project: Project) -> None:
    project.write("001_orders.sql", "CREATE TABLE orders (id int);")
    with project.cluster.connect(project.database) as conn:
        for tenant in ("acme", "globex"):
            conn.execute(f"CREATE SCHEMA tenant_{tenant}".encode())


BEFORE: dict[str, Callable[[Project], None]] = {
    "migrations/README.md": before_a_migration,
    "docs/coming-from.md": of_another_tool,
    "docs/fleets.md": of_tenants,
}


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")])
def test_the_commands_of_a_page_run_one_after_the_other(
    project: Project, binaries: Path, page: str
) -> None:
    shutil.copy(ROOT / ".squawk.toml", project.folder)
    BEFORE.get(page, with_the_first_migration)(project)
    env = project.environment()
    env["PATH"] += f":{binaries}"  # for pg_dump
    for block in blocks(page, "sh"):
        if any(page == where and block.startswith(begin) for where, begin in NOT_RUN):
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=project.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}"


@pytest.mark.parametrize(("page", "begin"), NOT_RUN, ids=[begin for _, begin in NOT_RUN])
def test_what_is_not_run_is_still_there(page: str, begin: str) -> None:
    assert any(block.startswith(begin) for block in blocks(page, "sh"))


def test_the_readme_has_one_block_to_start_and_one_to_test() -> None:
    for heading, said in (("Start", "invoke db.migrate"), ("Test", "pytest -q")):
        _, _, rest = text_of("README.md").partition(f"\n## {heading}\n")
        section = rest.split("\n## ")[0]
        assert section.count("```sh") == 1
        assert said in section


@pytest.fixture(scope="module")
def listed() -> set[str]:
    """The commands that invoke has in this project."""
    done = subprocess.run([INVOKE, "--list"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"^  ([a-z][\w.-]*)(?:  |$)", done.stdout, re.MULTILINE))


def test_the_readme_lists_the_commands_that_there_are(listed: set[str]) -> None:
    assert set(re.findall(r"`invoke ([a-z][\w.-]*)", text_of("README.md"))) == listed


def test_the_exit_codes_name_each_command_with_a_check(listed: set[str]) -> None:
    codes = {row[0]: row[1] for row in rows("docs/deploying.md", "code")}
    for command in listed:
        if command.startswith("db.") and "--check" in help_of(command):
            assert f"`{command}" in codes["3"]


@cache
def help_of(command: str) -> str:
    words = [str(INVOKE), "--help", command]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_that_a_page_names_exist(listed: set[str], page: str) -> None:
    for line in text_of(page).splitlines():
        for span in [*re.findall(r"`([^`]+)`", line), *([line] if "`" not in line else [])]:
            named = re.match(r"(?:.*\s)?(?:invoke )(?:--help )?(db\.[a-z-]+)(.*)", span)
            if not named:
                continue
            command, rest = named.groups()
            assert command in listed
            for option in re.findall(r"(?<=\s)--[a-z-]+", rest.split("#")[0]):
                assert option in help_of(command), span


# Files


def migrations_of(page: str) -> dict[str, str]:
    """Return the complete migrations that a page shows, by file name."""
    shown = [block for block in blocks(page, "sql") if block.startswith("-- Migration: ")]
    return {f"{block.split()[2]}.sql": block for block in shown}


@pytest.mark.parametrize("page", [page for page in PAGES if migrations_of(page)])
def test_the_migrations_of_a_page_run_verbatim(project: Project, page: str) -> None:
    with_the_first_migration(project)
    shown = migrations_of(page)
    for name, text in shown.items():
        project.write(name, text)
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert project.executed() == ["schema.sql", FIRST, *shown]
    assert project.invoke("db.status", "--check").returncode == 0


def test_squawk_finds_nothing_in_the_safe_migrations(project: Project) -> None:
    shutil.copy(ROOT / ".squawk.toml", project.folder)
    for name, text in migrations_of("docs/safe-migrations.md").items():
        project.write(name, text)
    done = project.invoke("db.lint", env={"DATABASE_URL": None})
    assert done.returncode == 0, done.output


def test_a_large_update_in_batches_reaches_every_row_and_may_run_again(project: Project) -> None:
    shown = migrations_of("docs/safe-migrations.md")
    name = next(name for name in shown if "fill" in name)
    project.write(name, shown[name])
    with project.cluster.connect(project.database) as conn:
        conn.execute(
            "CREATE TABLE messages AS SELECT id::bigint, CASE WHEN id % 3 = 0 THEN now() END"
            " AS failed_at, NULL::text AS error_message FROM generate_series(1, 12000) id"
        )
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.invoke("db.repair", "--name", name, "--forget", "--yes").returncode == 0
    assert project.invoke("db.migrate-run").returncode == 0
    with project.cluster.connect(project.database) as conn:
        filled = conn.execute("SELECT count(error_message) FROM messages").fetchone()
    assert filled == (4000,)


def test_the_python_of_the_readme_runs(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_the_first_migration(project)
    monkeypatch.chdir(project.folder)
    url = "postgresql://deploy@localhost/whatsapp"
    shown = blocks("README.md", "python")
    (first,) = [n for n, block in enumerate(shown) if url in block and "migrate(" in block]
    block, records = shown[first : first + 2]
    found: dict[str, object] = {}
    exec(block.replace(url, project.url), found)
    assert found["executed"] == ["schema.sql", FIRST]
    project.write("002_x.sql", "SELECT nonsense;")
    exec(block.replace(url, project.url), found)
    assert capsys.readouterr().out.startswith("migrations/002_x.sql:1:8 42703 Rolled")
    project.write("003_x.sql", "VACUUM;")
    exec(records.replace(url, project.url), found)
    assert "002_x.sql pending\n003_x.sql pending\n" in capsys.readouterr().out
    assert found["refused"] == ["003_x.sql"]


# Tables


def test_every_setting_is_in_the_readme_and_is_read() -> None:
    example = re.findall(r"^#? ?([A-Z_]+)=", text_of(".env.example"), re.MULTILINE)
    shown = [name for row in rows("README.md", "setting") for name in re.findall("`(.+?)`", row[0])]
    assert sorted(shown) == sorted(set(example))
    config = text_of("db/settings.py")
    of_libpq = {o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    for name in shown:
        assert name in of_libpq or f'"{name}"' in config


@pytest.mark.parametrize("row", rows("docs/deploying.md", "it says"), ids=lambda row: row[0])
def test_the_messages_that_are_explained_are_said(row: list[str]) -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "db").rglob("*.py"))
    code = re.sub(r'"\n\s*f?"', "", code)
    for said in re.findall("`(.+?)`", row[0]):
        of_the_server = re.search(r"\(\d\w+\)", row[0]) or "does not exist" in row[0]
        for part in said.split("…"):
            words = re.sub(r" pid $", " ", part).strip(" …")
            assert of_the_server or words.split("CREATE")[0] in code


def test_the_design_names_every_room_once_and_on_its_floor() -> None:
    named = []
    for section in text_of("docs/design.md").split("\n## ")[1:]:
        folder = re.match("`(.+?/)`", section)
        _, _, table = section.partition("\n| room | does |\n|---|---|\n")
        for line in table.split("\n\n")[0].splitlines():
            rooms = re.findall("`(.+?)`", line.split("|")[1])
            named += [f"{folder[1] if folder else ''}{room}" for room in rooms]
    there = [path for path in (ROOT / "db").rglob("*.py") if path.stem != "__init__"]
    there.remove(ROOT / "db" / "models.py")  # made by db.models
    assert sorted(named) == sorted(
        str(path.relative_to(ROOT / "db").with_suffix("")) for path in there
    )


def weight(mode: str) -> int:
    """Return how strong a lock is, by PostgreSQL's own numbers."""
    order = ["", "AccessShare", "RowShare", "RowExclusive", "ShareUpdateExclusive", "Share"]
    order += ["ShareRowExclusive", "Exclusive", "AccessExclusive"]
    return order.index(mode.removesuffix("Lock"))


def spelled(mode: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()


# The table `t` of docs/safe-migrations.md and what belongs to it.
TABLE = """
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE t (id int PRIMARY KEY, a int, v varchar(10), other_id int);
INSERT INTO other VALUES (1);
INSERT INTO t SELECT n, n, 'x', 1 FROM generate_series(1, 100) n;
ALTER TABLE t ADD CONSTRAINT t_positive CHECK (a > 0) NOT VALID;
CREATE INDEX t_a ON t (a);
CREATE UNIQUE INDEX t_a_unique ON t (a);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t_guard BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
"""


@pytest.fixture
def table(conn: psycopg.Connection[tuple[object, ...]]) -> int:
    """The table `t`; its oid."""
    conn.execute(TABLE)
    row = conn.execute("SELECT 't'::regclass::oid::int").fetchone()
    assert row and isinstance(row[0], int)
    return row[0]


LOCKS = rows("docs/safe-migrations.md", "statement")
OUTSIDE = re.compile("CONCURRENTLY|VACUUM")


@pytest.mark.long
@pytest.mark.parametrize(
    "row", [row for row in LOCKS if not OUTSIDE.search(row[0])], ids=lambda row: row[0].strip("`")
)
def test_a_statement_takes_the_lock_and_does_the_work_that_the_table_says(
    conn: psycopg.Connection[tuple[object, ...]], table: int, row: list[str]
) -> None:
    statement, lock, reads, rewrites, _ = row
    filenode = "SELECT pg_relation_filenode(%s::int::regclass)"
    scans = "SELECT pg_stat_get_xact_numscans(%s)"
    before = conn.execute(filenode, [table]).fetchone()
    read_before = conn.execute(scans, [table]).fetchone()
    with conn.transaction(force_rollback=True):
        conn.execute(statement.strip("`").encode())
        modes = [
            str(mode)
            for (mode,) in conn.execute(
                "SELECT mode FROM pg_locks WHERE relation = %s AND pid = pg_backend_pid()", [table]
            )
        ]
        read_after = conn.execute(scans, [table]).fetchone()
        after = conn.execute(filenode, [table]).fetchone()
    assert spelled(max(modes, key=weight)) == lock.strip("`")
    if statement != "`TRUNCATE t`":  # which reads what it has just emptied, for the indexes
        assert ("yes" if read_after != read_before else "no") == reads
    assert ("yes" if after not in (before, (None,)) else "no") == rewrites


@pytest.mark.parametrize(
    "row", [row for row in LOCKS if OUTSIDE.search(row[0])], ids=lambda row: row[0].strip("`")
)
def test_a_statement_outside_a_transaction_asks_for_the_lock_that_the_table_says(
    project: Project, conn: psycopg.Connection[tuple[object, ...]], table: int, row: list[str]
) -> None:
    with project.cluster.connect(project.database) as other:

        def run() -> None:
            other.execute(row[0].strip("`").encode())

        thread = threading.Thread(target=run)
        asked = None
        with conn.transaction():
            conn.execute("LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE")
            thread.start()
            deadline = time.monotonic() + 30
            while asked is None and time.monotonic() < deadline:
                asked = conn.execute(
                    "SELECT mode FROM pg_locks WHERE relation = %s AND NOT granted", [table]
                ).fetchone()
        thread.join()
    assert asked is not None
    assert spelled(str(asked[0])) == row[1].strip("`")


# Permissions


class Granted:
    """The grants of docs/deploying.md on a database of their own, with roles of their own."""

    def __init__(self, project: Project) -> None:
        suffix = secrets.token_hex(4)
        self.project = project
        self.names = {n: f"{n}_{suffix}" for n in ("deploy", "app_owner", "whatsapp")}
        self.blocks = blocks("docs/deploying.md", "sql")
        with_the_first_migration(project)
        project.write(
            "002_index.sql",
            "-- migrate: no-transaction\n"
            "CREATE INDEX CONCURRENTLY messages_reply_idx ON messages (reply_to_wamid);\n",
        )

    def text(self, begin: str) -> str:
        """Return the one block that holds this line, with these names."""
        (block,) = [block for block in self.blocks if begin in block]
        for plain, own in self.names.items():
            block = re.sub(rf"\b{plain}\b", own, block)
        return block

    def execute(self, text: str, database: str) -> None:
        """Execute the statements one by one: CREATE DATABASE wants it so."""
        with self.project.cluster.connect(database) as conn:
            for statement in text.split(";"):
                conn.execute(statement.encode())

    def create_database(self) -> None:
        self.execute(f"CREATE DATABASE {self.names['whatsapp']}", "postgres")

    @property
    def env(self) -> dict[str, str]:
        role, database = self.names["deploy"], self.names["whatsapp"]
        port = self.project.cluster.port
        return {"DATABASE_URL": f"postgresql://{role}:choose-one@127.0.0.1:{port}/{database}"}

    def owners(self, *relations: str) -> set[str]:
        with self.project.cluster.connect(self.names["whatsapp"]) as conn:
            query = "SELECT DISTINCT tableowner::text FROM pg_tables WHERE tablename = ANY (%s)"
            return {row[0] for row in conn.execute(query, [list(relations)])}

    def drop(self) -> None:
        self.project.cluster.drop_database(self.names["whatsapp"])
        for role in ("deploy", "app_owner"):
            self.execute(f"DROP ROLE IF EXISTS {self.names[role]}", "postgres")


@pytest.fixture
def granted(project: Project) -> Iterator[Granted]:
    made = Granted(project)
    yield made
    made.drop()


EVERYTHING = ["schema.sql", FIRST, "002_index.sql"]


def executed(granted: Granted) -> list[str]:
    with granted.project.cluster.connect(granted.names["whatsapp"]) as conn:
        return [row[0] for row in conn.execute("SELECT filename FROM migrations ORDER BY id")]


def test_a_role_that_owns_the_database_needs_nothing_else(granted: Granted) -> None:
    granted.execute(granted.text("OWNER deploy"), "postgres")
    done = granted.project.invoke("db.migrate", env=granted.env)
    assert done.returncode == 0, done.output
    assert executed(granted) == EVERYTHING


def test_a_role_that_may_create_in_the_schema_needs_nothing_else(granted: Granted) -> None:
    granted.create_database()
    granted.execute(granted.text("CREATE ON SCHEMA public TO deploy"), granted.names["whatsapp"])
    done = granted.project.invoke("db.migrate", env=granted.env)
    assert done.returncode == 0, done.output
    assert executed(granted) == EVERYTHING
    assert granted.owners("users", "migrations") == {granted.names["deploy"]}


def test_a_role_that_may_create_uses_the_ledger_of_another_role(granted: Granted) -> None:
    granted.create_database()
    database, cluster = granted.names["whatsapp"], granted.project.cluster
    owner = {"DATABASE_URL": cluster.url(database)}
    assert granted.project.invoke("db.migrate", env=owner).returncode == 0
    granted.execute(granted.text("CREATE ON SCHEMA public TO deploy"), database)
    granted.project.write("003_t.sql", "CREATE TABLE t (id int);")
    granted.project.write("004_u.sql", "-- migrate: no-transaction\nCREATE TABLE u (id int);")
    assert granted.project.invoke("db.migrate-run", env=granted.env).returncode
    granted.execute(granted.text("SELECT, INSERT, UPDATE, DELETE ON migrations"), database)
    done = granted.project.invoke("db.migrate-run", env=granted.env)
    assert done.returncode == 0, done.output
    assert granted.owners("t", "u") == {granted.names["deploy"]}


def test_one_role_logs_in_and_another_owns(granted: Granted) -> None:
    granted.create_database()
    granted.execute(granted.text("GRANT app_owner TO deploy"), granted.names["whatsapp"])
    env = {**granted.env, "MIGRATIONS_ROLE": granted.names["app_owner"]}
    done = granted.project.invoke("db.migrate", env=env)
    assert done.returncode == 0, done.output
    assert executed(granted) == EVERYTHING
    assert granted.owners("users", "whatsapp_instances") == {granted.names["app_owner"]}
    assert granted.owners("migrations") == {granted.names["deploy"]}


def test_the_sessions_in_the_way_are_shown_to_a_role_that_may_read_statistics(
    granted: Granted,
) -> None:
    granted.execute(granted.text("OWNER deploy"), "postgres")
    granted.execute(granted.text("pg_read_all_stats"), "postgres")
    database = granted.names["whatsapp"]
    assert granted.project.invoke("db.migrate", env=granted.env).returncode == 0
    granted.project.write("003_alter.sql", "ALTER TABLE users ADD COLUMN more int;")
    with granted.project.cluster.connect(database, autocommit=False) as reader:
        reader.execute("SELECT 'in the way' FROM users")
        once = {"MIGRATIONS_LOCK_WAIT": "0s", "MIGRATIONS_LOCK_TIMEOUT": "3s"}
        done = granted.project.invoke("db.migrate-run", env={**granted.env, **once})
        reader.rollback()
    assert done.returncode == 1
    assert "SELECT 'in the way' FROM users" in done.stderr


# Deploying


def test_the_image_gets_the_files_that_it_copies() -> None:
    lines = re.findall(r"^COPY (.+) \S+$", text_of("Dockerfile"), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    let_through = set(re.findall(r"^!(.+)$", text_of(".dockerignore"), re.MULTILINE))
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_a_run_writes_nothing_besides_the_database(project: Project) -> None:
    def everything() -> dict[Path, float]:
        found = [*project.folder.rglob("*"), *project.home.rglob("*")]
        return {path: path.stat().st_mtime for path in found}

    with_the_first_migration(project)
    before = everything()
    done = project.invoke("db.migrate", env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.output
    assert everything() == before


# Links and pictures


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), link


@pytest.mark.parametrize("name", ["migrate", "failure", "rehearse", "drift"])
def test_a_picture_shows_no_machine_and_loads_nothing(name: str) -> None:
    svg = text_of(f"docs/{name}.svg")
    assert "localhost:5432" in svg
    assert not re.search(r"@font-face|url\((?!#)|<image|/tmp|/home|/root", svg)


def test_the_picture_of_the_floors_is_that_of_the_code() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "floors.py"))["drawn"]
    again = "it is made by: python docs/pictures.py floors"
    assert text_of("docs/floors.svg") == drawn(), again


def test_the_documentation_speaks_of_every_page() -> None:
    readme = text_of("README.md")
    assert all(page in readme for page in PAGES if page != "README.md")
