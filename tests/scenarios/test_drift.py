"""db.drift: what somebody has changed by hand is found, each once, and nothing else."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

import pytest

import db
from db import Settings, errors
from db.events import Waiting
from db.server import connection
from db.server.watch import Guard
from tests.conftest import MakeCluster, Project
from tests.servers import Cluster, shipped

# One object for each thing that is done by hand later, so that no two of them meet.
MADE = """
CREATE TABLE columns_of (id int PRIMARY KEY, gone int, wider int, plain int DEFAULT 1,
    filled int NOT NULL, named text, stated int, bare text);
CREATE TABLE kept (id int PRIMARY KEY, a int, b text, CONSTRAINT a_check CHECK (a > 0));
CREATE TABLE emptied (id int, CONSTRAINT emptied_key UNIQUE (id));
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int, parent int CONSTRAINT children_fk REFERENCES parents);
CREATE TABLE strays (id int, parent int CONSTRAINT strays_fk REFERENCES parents);
CREATE TABLE loose (id int, parent int, other int);
CREATE TABLE checked (id int, CONSTRAINT checked_id CHECK (id > 0));
CREATE TABLE hidden (id int);
CREATE TABLE ruled (id int);
CREATE TABLE fast (id int);
CREATE TABLE other_method (id int);
CREATE TABLE replicated (id int PRIMARY KEY, name text NOT NULL);
CREATE UNIQUE INDEX replicated_name ON replicated (name);
CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE computed (id int, twice int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (9);
CREATE TABLE indexed (a int, b int);
CREATE INDEX indexed_gone ON indexed (a);
CREATE INDEX indexed_other ON indexed (a);
CREATE INDEX indexed_invalid ON indexed (b);
CREATE TABLE dropped (id int);
CREATE VIEW seen AS SELECT 1 AS one;
CREATE VIEW unseen AS SELECT 2 AS two;
CREATE MATERIALIZED VIEW stored AS SELECT 1 AS one;
CREATE FUNCTION said() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION secure() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION callable() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE triggered (id int);
CREATE TRIGGER off BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER away BEFORE UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN positive AS int;
CREATE SEQUENCE steps;
CREATE TABLE secured (id int);
CREATE TABLE tenants (id int);
CREATE POLICY own ON tenants USING (id > 0);
CREATE TABLE granted (id int, name text);
CREATE TABLE told (id int);
COMMENT ON TABLE told IS 'as it was';
CREATE PUBLICATION news FOR TABLE parents;
CREATE FOREIGN DATA WRAPPER wrapper;
CREATE SERVER far FOREIGN DATA WRAPPER wrapper;
CREATE FOREIGN TABLE remote (id int) SERVER far;
CREATE EXTENSION citext;
CREATE FUNCTION watched() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION watched();
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
GRANT SELECT ON granted TO reader;
"""

# What is done by hand, and the objects that are not what the files make any more.
SEEDS = {
    "CREATE TABLE by_hand (id int)": "TABLE public.by_hand",
    "DROP TABLE dropped": "TABLE public.dropped",
    "ALTER TABLE columns_of ADD extra int": "TABLE public.columns_of",
    "ALTER TABLE kept RENAME CONSTRAINT kept_pkey TO kept_pk": (
        "CONSTRAINT public.kept kept_pk",
        "CONSTRAINT public.kept kept_pkey",
    ),
    "ALTER TABLE emptied DROP CONSTRAINT emptied_key": "CONSTRAINT public.emptied emptied_key",
    "ALTER TABLE loose ADD CONSTRAINT loose_fk FOREIGN KEY (parent) REFERENCES parents": (
        "FK CONSTRAINT public.loose loose_fk"
    ),
    "ALTER TABLE children ALTER CONSTRAINT children_fk DEFERRABLE": (
        "FK CONSTRAINT public.children children_fk"
    ),
    "ALTER TABLE strays DISABLE TRIGGER ALL": "FK CONSTRAINT public.strays strays_fk",
    "ALTER TABLE checked ADD CONSTRAINT late CHECK (id < 9) NOT VALID": (
        "CHECK CONSTRAINT public.checked late"
    ),
    "DROP INDEX indexed_gone": "INDEX public.indexed_gone",
    "DROP INDEX indexed_other; CREATE INDEX indexed_other ON indexed (a, b)": (
        "INDEX public.indexed_other"
    ),
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'indexed_invalid'::regclass": (
        "INDEX public.indexed_invalid"
    ),
    "CREATE OR REPLACE VIEW seen AS SELECT 2 AS one": "VIEW public.seen",
    "DROP VIEW unseen": "VIEW public.unseen",
    "CREATE MATERIALIZED VIEW more AS SELECT 1 AS one": "MATERIALIZED VIEW public.more",
    "CREATE OR REPLACE FUNCTION said() RETURNS int LANGUAGE sql AS 'SELECT 2'": (
        "FUNCTION public.said()"
    ),
    "ALTER FUNCTION secure() SECURITY DEFINER": "FUNCTION public.secure()",
    "CREATE PROCEDURE done() LANGUAGE sql AS ''": "PROCEDURE public.done()",
    "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)": "AGGREGATE public.total(integer)",
    "ALTER TABLE triggered DISABLE TRIGGER off": "TRIGGER public.triggered off",
    "DROP TRIGGER away ON triggered": "TRIGGER public.triggered away",
    "ALTER TYPE mood ADD VALUE 'angry' BEFORE 'sad'": "TYPE public.mood",
    "ALTER TYPE pair ADD ATTRIBUTE c int": "TYPE public.pair",
    "ALTER DOMAIN positive ADD CHECK (VALUE > 0)": "DOMAIN public.positive",
    "ALTER SEQUENCE steps INCREMENT 2": "SEQUENCE public.steps",
    "CREATE SEQUENCE jumps": "SEQUENCE public.jumps",
    "ALTER TABLE numbered ALTER id SET GENERATED BY DEFAULT": "SEQUENCE public.numbered_id_seq",
    "ALTER TABLE computed ALTER twice DROP EXPRESSION": "TABLE public.computed",
    "ALTER TABLE parted DETACH PARTITION parted_1": "TABLE ATTACH public.parted_1",
    "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY": "ROW SECURITY public.hidden",
    "CREATE POLICY all_of ON secured USING (true)": "POLICY public.secured all_of",
    "ALTER POLICY own ON tenants USING (id > 1)": "POLICY public.tenants own",
    "CREATE RULE no AS ON DELETE TO ruled DO INSTEAD NOTHING": "RULE public.ruled no",
    "ALTER TABLE fast SET (fillfactor = 50)": "TABLE public.fast",
    "ALTER TABLE replicated REPLICA IDENTITY USING INDEX replicated_name": (
        "INDEX public.replicated_name"
    ),
    "COMMENT ON TABLE told IS 'as it is'": "COMMENT public.TABLE told",
    "COMMENT ON COLUMN told.id IS 'new'": "COMMENT public.COLUMN told.id",
    "GRANT INSERT ON granted TO reader": "ACL public.TABLE granted",
    "GRANT UPDATE (name) ON granted TO writer": "ACL public.COLUMN granted.name",
    "REVOKE EXECUTE ON FUNCTION callable() FROM PUBLIC": "ACL public.FUNCTION callable()",
    "CREATE EXTENSION pg_trgm": "EXTENSION pg_trgm",
    "UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'citext'": "EXTENSION citext",
    "CREATE SCHEMA extra": "SCHEMA extra",
    "CREATE STATISTICS together ON a, b FROM indexed": "STATISTICS public.together",
    "ALTER EVENT TRIGGER watcher DISABLE": "EVENT TRIGGER watcher",
    "ALTER PUBLICATION news ADD TABLE children": "PUBLICATION TABLE public.news children",
    "ALTER SERVER far OPTIONS (ADD host 'x', ADD password 's3cret')": "SERVER far",
    "ALTER FOREIGN TABLE remote ADD extra int": "FOREIGN TABLE public.remote",
    "CREATE CAST (mood AS pair) WITH INOUT": "CAST CAST (public.mood AS public.pair)",
    'CREATE COLLATION german FROM "C"': "COLLATION public.german",
    "CREATE OPERATOR @#@ (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int)": (
        "OPERATOR public.@#@"
    ),
    "ALTER TEXT SEARCH CONFIGURATION words DROP MAPPING FOR email": (
        "TEXT SEARCH CONFIGURATION public.words"
    ),
    "DROP TABLE other_method; CREATE TABLE other_method (id int) USING heap2": (
        "TABLE public.other_method"
    ),
    "ALTER DATABASE {database} SET work_mem = '9MB'": "DATABASE SETTING work_mem",
    "ALTER DATABASE {database} SET app.token = 's3cret'": "DATABASE SETTING app.token",
    "ALTER ROLE reader IN DATABASE {database} SET work_mem = '8MB'": (
        "ROLE SETTING reader work_mem"
    ),
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader": (
        "DEFAULT ACL public.DEFAULT PRIVILEGES FOR TABLES"
    ),
}


def wanted(seeds: Mapping[str, Sequence[str]]) -> list[str]:
    found: list[str] = []
    for objects in seeds.values():
        found += [objects] if isinstance(objects, str) else objects
    return sorted(found)


@pytest.fixture
def roles(cluster: Cluster) -> Iterator[None]:
    """Roles that the files mention, as an administrator has made them."""
    with cluster.connect() as conn:
        for role in ("reader", "writer"):
            conn.execute(f"DROP ROLE IF EXISTS {role}".encode())
            conn.execute(f"CREATE ROLE {role}".encode())
    yield


@pytest.fixture
def chosen(project: Project, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The project's settings, for Python; what initdb makes is kept between tests."""
    for name in ("XDG_CACHE_HOME", "PATH"):
        monkeypatch.setenv(name, project.environment()[name])
    project.write_schema("")
    schema = project.folder / "db" / "schema.sql"
    return Settings.of(project.url, project.migrations, schema=schema)


@pytest.mark.long
@pytest.mark.usefixtures("roles")
def test_what_is_changed_by_hand_is_found_each_once_and_nothing_else(
    project: Project, chosen: Settings
) -> None:
    with project.cluster.connect() as conn:
        has = "SELECT count(*) FROM pg_available_extensions WHERE name IN ('citext', 'pg_trgm')"
        plain = conn.execute(has).fetchone() != (2,)  # as in the wheel of 16
    project.write("001_made.sql", MADE.replace("CREATE EXTENSION citext;", "") if plain else MADE)
    seeds = {s: o for s, o in SEEDS.items() if not (plain and str(o).startswith("EXTENSION "))}
    db.migrate(chosen)
    project.write("002_pending.sql", "CREATE TABLE pending (id int);")
    assert db.drift(chosen) == ()
    with project.cluster.connect(project.database) as conn:
        for seed in seeds:
            conn.execute(seed.replace("{database}", project.database).encode())
    found = db.drift(chosen)
    assert sorted(map(str, found)) == wanted(seeds)
    by_name = {str(each): each for each in found}
    assert by_name["TABLE public.columns_of"][3:] == ("differs", (), ("    extra integer",))
    assert by_name["INDEX public.indexed_gone"].state == "missing"
    assert by_name["TABLE public.by_hand"].state == "unexpected"
    assert by_name["INDEX public.indexed_invalid"].found == ("-- INVALID",)
    assert "s3cret" not in repr(found)

    done = project.invoke("db.drift", "--json")
    assert done.returncode == 3, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    shown = [e for e in events if e["event"] == "difference"]
    assert len(shown) == len(found)
    assert events[-1]["error"] == "CheckFailed"
    ignore = "TABLE *, *INDEX *,*CONSTRAINT *, * public.*, EXTENSION *, SCHEMA extra, EVENT *"
    ignore += ", SERVER *, CAST *, * SETTING *"
    done = project.invoke("db.drift", env={"MIGRATIONS_DRIFT_IGNORE": ignore})
    assert done.returncode == 0, done.output
    assert f"left out by MIGRATIONS_DRIFT_IGNORE: {len(found)}" in done.output


USERS = """
CREATE TABLE users (id int PRIMARY KEY, status varchar(9) CHECK (status IN ('on', 'off')));
CREATE VIEW active AS SELECT * FROM users WHERE status IN ('on');
CREATE INDEX on_or_off ON users (id) WHERE status IN ('on', 'off');
CREATE POLICY own ON users USING (status IN ('on', 'off'));
CREATE TABLE parted (id int PRIMARY KEY, status varchar(9))
    PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (9);
CREATE INDEX ON parted (status);
CREATE VIEW grouped AS SELECT id, status FROM parted WHERE status IN ('on', 'off') GROUP BY id;
GRANT SELECT ON users TO reader;
"""


@pytest.mark.long
@pytest.mark.usefixtures("roles")
def test_another_order_or_a_dump_and_restore_is_no_drift(
    project: Project, chosen: Settings
) -> None:
    project.write("001_users.sql", USERS)
    project.write("003_b.sql", "ALTER TABLE users ADD b int;")
    db.migrate(chosen)
    project.write("002_a.sql", "ALTER TABLE users ADD a int;")
    db.migrate(chosen)
    assert db.drift(chosen) == ()
    done = project.invoke("db.drift")
    assert "TABLE public.users  another order of its columns (not counted)" in done.output

    dump = project.invoke("db.dump", "--force")
    assert dump.returncode == 0, dump.output
    notes: list[str] = []
    listen = lambda event: notes.append(str(event))  # noqa: E731
    assert db.drift(chosen, on_event=listen) == ()
    assert "privileges are not compared: " in "".join(notes)
    copy = project.cluster.create_database()
    there = chosen._replace(parameters={**chosen.parameters, "dbname": copy})
    db.migrate(there)
    assert db.drift(there) == ()
    with project.cluster.connect(copy) as conn:
        conn.execute("ALTER TABLE users DROP CONSTRAINT users_status_check")
    (found,) = db.drift(there)
    assert "users_status_check" in "".join(found.expected)
    with project.cluster.connect(copy) as conn:
        conn.execute("ALTER TABLE users ADD CHECK (status IN ('on', 'off'))")

    # A dump of a database that is ahead holds what is pending elsewhere.
    project.write("004_c.sql", "ALTER TABLE users ADD c int;")
    db.migrate(there)
    dump = project.invoke("db.dump", env={"DATABASE_URL": project.cluster.url(copy)})
    assert dump.returncode == 0, dump.output
    notes.clear()
    assert db.drift(chosen, on_event=listen) == ()
    assert "holds what is pending here: 004_c.sql" in "".join(notes)
    assert db.drift(there) == ()
    (project.migrations / "002_a.sql").unlink()
    assert db.drift(there) == ()  # the dump has it
    with pytest.raises(errors.FilesError, match=r"not in the folder: 002_a\.sql"):
        db.drift(chosen)


@pytest.mark.long
def test_on_a_server_that_was_named_all_but_privileges_is_compared(
    project: Project, chosen: Settings
) -> None:
    project.write("001_users.sql", USERS.replace("TO reader", "TO CURRENT_USER"))
    db.migrate(chosen)
    copy = project.cluster.create_database()
    there = chosen._replace(
        parameters={**chosen.parameters, "dbname": copy}, scratch=chosen.parameters
    )
    dump = project.invoke("db.dump", "--force")
    assert dump.returncode == 0, dump.output
    db.migrate(there)
    project.write_schema("")
    notes: list[str] = []
    assert db.drift(there, on_event=lambda event: notes.append(str(event))) == ()
    assert "has other roles" in "".join(notes)
    with project.cluster.connect(copy) as conn:
        conn.execute("GRANT SELECT ON users TO PUBLIC; DROP INDEX on_or_off")
        conn.execute("CREATE OR REPLACE VIEW active AS SELECT * FROM users WHERE status IN ('off')")
    found = sorted(map(str, db.drift(there)))
    assert found == ["INDEX public.on_or_off", "VIEW public.active"]
    with project.cluster.connect(copy) as conn:
        left = "SELECT datname FROM pg_database WHERE datname LIKE 'migrations_scratch%'"
        assert conn.execute(left).fetchall() == []
    role = f"made_{project.database}"
    project.write("002_role.sql", f"CREATE ROLE {role}; GRANT SELECT ON users TO {role};")
    db.migrate(chosen)
    try:
        with pytest.raises(errors.StatementFailed, match="already exists") as failed:
            db.drift(chosen._replace(scratch=chosen.parameters))
        assert "Roles belong to the whole server" in str(failed.value)
    finally:
        project.cluster.drop_database(project.database)
        with project.cluster.connect() as conn:
            conn.execute(f"DROP ROLE {role}".encode())


@pytest.mark.long
def test_no_role_of_the_files_stays_on_a_server_that_was_named(
    project: Project, chosen: Settings, own_cluster: MakeCluster
) -> None:
    role, other = f"made_{project.database}", own_cluster()
    policy = f"CREATE POLICY theirs ON users TO {role} USING (status IN ('on', 'off'));"
    project.write("001_users.sql", USERS.replace("TO reader", "TO CURRENT_USER"))
    project.write("002_role.sql", f"CREATE ROLE {role}; GRANT SELECT ON users TO {role}; {policy}")
    db.migrate(chosen)
    with project.cluster.connect(project.database) as conn:
        conn.execute("ALTER TABLE users DROP CONSTRAINT users_status_check")
        conn.execute("ALTER TABLE users ADD CHECK (status IN ('on'))")
    project.write("003_pending.sql", f"CREATE ROLE {role}_2;")
    env = {"MIGRATIONS_SCRATCH": other.url("postgres")}
    for command in (["db.drift"], ["db.models"], ["db.rehearse", "--replay"]) * 2:
        done = project.invoke(*command, env=env, timeout=120)
        assert done.returncode == (3 if command == ["db.drift"] else 0), done.output
        with other.connect() as conn:
            there = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'made%'"
            assert conn.execute(there).fetchall() == []
    with project.cluster.connect(project.database) as conn:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


OWNED = """
CREATE SCHEMA app;
CREATE ROLE {made};
CREATE TABLE orders (id int);
GRANT SELECT ON orders TO reader, {made}, {owner};
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO reader;
ALTER DATABASE {database} SET work_mem = '9MB';
"""


@pytest.mark.long
@pytest.mark.usefixtures("roles")
def test_a_replay_has_the_roles_and_settings_of_the_target(
    project: Project, chosen: Settings
) -> None:
    owner, made = f"owner_{project.database}", f"made_{project.database}"
    database = project.database
    with project.cluster.connect(database) as conn:
        conn.execute(f"CREATE ROLE {owner} SUPERUSER".encode())
        conn.execute(f"GRANT USAGE ON SCHEMA public TO {owner}".encode())
        conn.execute(f"ALTER DATABASE {database} SET search_path = app, public".encode())
    chosen = chosen._replace(role=owner)
    text = OWNED.format(owner=owner, made=made, database=database)
    project.write("001_owned.sql", text)
    project.write("002_late.sql", "CREATE TABLE late (id int); GRANT SELECT ON late TO writer;")
    db.migrate(chosen)
    try:
        with project.cluster.connect(database) as conn:
            row = conn.execute("SELECT to_regclass('app.late') IS NOT NULL").fetchone()
            assert row == (True,)  # where the search_path of the database leads
        assert sorted(map(str, db.drift(chosen))) == ["DATABASE SETTING search_path"]

        waited: list[str] = []
        with connection.target(chosen) as target:
            guard = Guard(target, ("migrations:migrations", "migrations:public.migrations"))
            assert guard.lock()

            def release(event: object) -> None:
                if isinstance(event, Waiting):
                    waited.append(event.what)
                    guard.close()

            db.drift(chosen, on_event=release)
        assert waited and "another run" in waited[0]
    finally:
        project.cluster.drop_database(database)
        with project.cluster.connect() as conn:
            conn.execute(f"DROP ROLE {owner}, {made}".encode())


@pytest.mark.long
def test_what_cannot_be_replayed_is_said(project: Project, chosen: Settings) -> None:
    with pytest.raises(errors.LedgerError, match="Nothing is executed here"):
        db.drift(chosen)
    project.write("001_seeds.sql", "CREATE TABLE seeds (id int);")
    db.migrate(chosen)
    with project.cluster.connect(project.database) as conn:
        conn.execute("INSERT INTO seeds VALUES (1)")
    needs = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM seeds) THEN RAISE 'no seeds'; END IF; END $$;"
    project.write("002_needs.sql", needs)
    db.migrate(chosen)
    with pytest.raises(errors.StatementFailed, match="no seeds") as failed:
        db.drift(chosen)
    assert "nothing was executed elsewhere" in failed.value.outcome
    assert "begins with an empty database" in str(failed.value)
    with project.cluster.connect(project.database) as conn:
        conn.execute("UPDATE migrations SET checksum = 'x' WHERE filename = '001_seeds.sql'")
    (project.migrations / "002_needs.sql").write_text("SELECT 1;")
    notes: list[str] = []
    assert db.drift(chosen, on_event=lambda event: notes.append(str(event))) == ()
    assert "replayed as it is now: 001_seeds.sql, 002_needs.sql" in "".join(notes)


@pytest.mark.long
@pytest.mark.usefixtures("roles")
def test_a_dump_is_held_against_the_files_without_a_database(
    project: Project, chosen: Settings
) -> None:
    def check(code: int) -> str:
        done = project.invoke("db.dump", "--check", env={"DATABASE_URL": None})
        assert done.returncode == code, done.output
        return done.output

    project.write_schema("SELECT 1;")
    assert "was not written by db.dump" in check(2)
    (project.folder / "db" / "schema.sql").unlink()
    said = check(2)
    assert "db/schema.sql is not there." in said
    assert "--force" not in said
    project.write("001_users.sql", USERS)
    project.write("002_fill.sql", "INSERT INTO users VALUES (1, 'on');")
    project.write_schema("")
    db.migrate(chosen)
    dump = project.invoke("db.dump", "--force")
    assert dump.returncode == 0, dump.output
    assert "what the files make; objects compared: " in check(0)
    fill = project.write("002_fill.sql", "INSERT INTO users VALUES (2, 'on');")
    assert "changed since: 002_fill.sql" in check(3)
    fill.write_text("INSERT INTO users VALUES (1, 'on');")
    later = project.write("003_age.sql", "ALTER TABLE users ADD age int;")
    said = check(3)
    assert "1 object differs; not in it: 003_age.sql" in said
    assert "expected  age integer" in said
    (project.migrations / "001_users.sql").unlink()  # which the dump has replaced
    assert "no longer in the folder: 001_users.sql" in check(3)
    later.unlink()
    check(0)

    # A base schema that the dump has overwritten is in no file.
    project.write("001_users.sql", "ALTER TABLE base ADD age int;")
    assert "keep that as the first file, such as 000_base.sql" in check(1)


@pytest.mark.long
@pytest.mark.parametrize("kept", ["beside", "as the first file"])
def test_a_base_schema_that_somebody_wrote_is_kept_and_the_dump_checked(
    project: Project, kept: str
) -> None:
    def run(line: str, code: int = 0) -> str:
        done = project.invoke(*shlex.split(line), env={}, timeout=120)
        assert done.returncode == code, done.output
        return done.output

    base = project.folder / "db" / "schema.sql"
    written = "CREATE TABLE base (id int);\n"
    base.write_text(written)
    project.write("001_users.sql", "ALTER TABLE base ADD age int;")
    run("db.migrate")
    said = run("db.dump --check", 2)
    assert said.index("If the files build on it") < said.index("--force")
    if kept == "beside":
        (to,) = re.findall("another file: invoke (.*)", said)
        run(to)
        assert base.read_text() == written
        checked = f"{to} --check"
    else:
        moved, mark, to = re.findall(r"  mv (.*)\n  invoke (.*), and then: invoke (.*)\n", said)[0]
        first, second = shlex.split(moved)
        (project.folder / first).rename(project.folder / second)
        run(f"{mark} --yes")
        run(to)
        checked = f"{to} --check"
    assert "what the files make" in run(checked)
    assert "nothing to do" in run("db.migrate")
    project.write("002_b.sql", "ALTER TABLE base ADD more int;")
    said = run(checked, 3)
    assert "not in it: 002_b.sql" in said
    assert f"invoke db.reset, and then: invoke {to}\n" in said
    run("db.migrate")
    run(to)
    run(checked)


@pytest.mark.long
@pytest.mark.parametrize("package", ["procrastinate", "graphile-worker"])
def test_a_schema_that_a_package_ships_is_what_its_files_make(
    project: Project, chosen: Settings, package: str
) -> None:
    if package == "graphile-worker":  # which makes its schema by itself
        project.write("000_schema.sql", "CREATE SCHEMA graphile_worker;")
    for number, path in enumerate(shipped(package), 1):
        text = path.read_text().replace(":GRAPHILE_WORKER_SCHEMA", "graphile_worker")
        project.write(f"{number:03}_{path.stem.replace('.', '_')}.sql", text)
    assert len(db.migrate(chosen)) > 15
    assert db.drift(chosen) == ()
    dump = project.invoke("db.dump", "--force", "--privileges")
    assert dump.returncode == 0, dump.output
    assert db.drift(chosen) == ()  # replayed from the dump
    checked = project.invoke("db.dump", "--check", env={"DATABASE_URL": None})
    assert checked.returncode == 0, checked.output
