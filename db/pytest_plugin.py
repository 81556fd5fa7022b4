"""The pytest plugin: `db_url` and `db_connection`, a migrated database for each test that asks.

It is loaded in every run of pytest, so nothing is imported before a test asks for a fixture.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    import psycopg

    from .clones.databases import Databases

_FAILED = pytest.StashKey[bool]()
_KEPT = pytest.StashKey[str]()
_OPENED = pytest.StashKey["_Opened"]()
_FAILURE = pytest.StashKey[str]()

_MARKER = "db(transaction=True): db_connection is in one transaction, which is rolled back"
_SAVEPOINT = "migrations_test"
_STOP = "no database for tests: the reason is in a section of its own"


class Hooks:
    """What a conftest.py may say."""

    @pytest.hookspec
    def pytest_db_template(self, connection: psycopg.Connection[Any]) -> None:
        """Put rows into the template, once. What `connection` has done is committed afterwards.

        The file of this function is part of what names the template; others that it reads are
        named by the ini option `db_template_files`.
        """


class _Database(NamedTuple):
    """The database of one test. `transaction`: it is shared, and nothing is to stay in it."""

    name: str
    url: str
    transaction: bool


class _Opened:
    """The databases of this process, and the one that tests in a transaction share."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self._shared = ""

    def shared(self) -> str:
        """Return the database that transactions are rolled back in."""
        self._shared = self._shared or self.databases.take()
        return self._shared

    def spoilt(self) -> None:
        """Take another one from now on: something was committed in it."""
        self.databases.give_back(self._shared)
        self._shared = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("db", "migrated databases for tests")
    server = "URL of the server on which databases are made, instead of one of the tests' own"
    group.addoption("--db-server", metavar="URL", default="", help=server)
    keep = "keep the database of a test that fails, until the next run"
    group.addoption("--db-keep", action="store_true", help=keep)
    parser.addini("db_server", server, default="")
    parser.addini("db_root", "the folder with migrations/, from the rootdir", default="")
    files = "files that the template is made of besides the migrations: paths or patterns"
    parser.addini("db_template_files", files, type="linelist", default=[])


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def _db_database(request: pytest.FixtureRequest) -> Iterator[_Database]:
    opened = _databases(request.session)
    databases, node = opened.databases, request.node
    if _in_transaction(node):
        name = opened.shared()
        yield _Database(name, databases.url(name), transaction=True)
        return
    name = databases.take()
    if request.config.getoption("--db-keep"):
        node.stash[_KEPT] = databases.url(databases.kept_name(name), secret=False)
    yield _Database(name, databases.url(name), transaction=False)
    if request.config.getoption("--db-keep") and node.stash.get(_FAILED, False):
        databases.keep(name)
    else:
        databases.give_back(name)


@pytest.fixture
def db_url(_db_database: _Database) -> str:
    """The URL of a database of the test's own, with every migration in it, as libpq reads it."""
    if _db_database.transaction:
        pytest.fail(
            "db_url is for connections of the test's own, which no rollback of db_connection "
            "reaches. Take @pytest.mark.db(transaction=True) away, or use db_connection alone.",
            pytrace=False,
        )
    return _db_database.url


@pytest.fixture
def db_connection(
    request: pytest.FixtureRequest, _db_database: _Database
) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection to the test's database, closed afterwards."""
    import psycopg

    connection = psycopg.connect(_db_database.url)
    try:
        if not _db_database.transaction:
            yield connection
            return
        with connection.transaction(force_rollback=True):
            connection.execute(f"SAVEPOINT {_SAVEPOINT}")
            yield connection
            try:  # only the transaction that it was made in knows it
                connection.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            except psycopg.Error:
                _databases(request.session).spoilt()
                pytest.fail(
                    "The transaction of this test was ended by a COMMIT or ROLLBACK in its SQL, or "
                    "its connection is gone. Such a test needs a database of its own: take "
                    "@pytest.mark.db(transaction=True) away.",
                    pytrace=False,
                )
    finally:
        connection.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and not item.stash.get(_FAILED, False):
        item.stash[_FAILED] = True
        if report.when != "teardown" and _KEPT in item.stash:
            kept = f"kept until the next run: psql '{item.stash[_KEPT]}'"
            report.sections.append(("database", kept))
    return report


@pytest.hookimpl(trylast=True)  # when every fixture has ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    opened = session.config.stash.get(_OPENED, None)
    if opened is not None:
        opened.databases.close()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over from a worker of xdist what made it stop; the first one is enough."""
    said = getattr(node, "workeroutput", {}).get("db_failure")
    if said:
        node.config.stash.setdefault(_FAILURE, said)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    said = config.stash.get(_FAILURE, "")
    if said:
        terminalreporter.section("no database for tests", red=True, bold=True)
        terminalreporter.write(said.rstrip() + "\n")


def _in_transaction(node: pytest.Item) -> bool:
    marker = node.get_closest_marker("db")
    if marker is None:
        return False
    if marker.args or marker.kwargs.keys() - {"transaction"}:
        pytest.fail("It is @pytest.mark.db(transaction=True), and nothing else.", pytrace=False)
    return bool(marker.kwargs.get("transaction", False))


def _databases(session: pytest.Session) -> _Opened:
    """Return the databases of this process; open them at the first call, or end the run."""
    if _OPENED not in session.config.stash:
        session.config.stash[_OPENED] = _Opened(_open(session))
    return session.config.stash[_OPENED]


def _open(session: pytest.Session) -> Databases:
    from . import testing
    from .clones.databases import Databases
    from .errors import MigrationsError
    from .project import find_root

    config, picture = session.config, testing.Picture()
    worker: dict[str, Any] = getattr(config, "workerinput", {})
    try:
        named = config.getini("db_root")
        root = config.rootpath / named if named else find_root(config.rootpath, os.environ)
        seeds = [impl.function for impl in config.hook.pytest_db_template.get_hookimpls()]
        recipe = testing.recipe(root, seeds, _named_files(config))
        server = config.getoption("--db-server") or config.getini("db_server")
        run = str(worker.get("testrunuid", ""))
        return Databases(recipe, server, run=run, show=picture.event)
    except MigrationsError as error:
        said = picture.of(error)
    except Exception:  # a seed's, whose place people want to see
        said = traceback.format_exc()
    # Once for the run: the other tests would only say the same.
    config.stash[_FAILURE] = said
    if not worker:
        pytest.exit(_STOP, returncode=pytest.ExitCode.INTERRUPTED)
    config.workeroutput["db_failure"] = said  # type: ignore[attr-defined]  # xdist's
    session.shouldstop = _STOP  # a worker that exits is a crashed one, and is started again
    pytest.skip(_STOP)


def _named_files(config: pytest.Config) -> list[Path]:
    root = config.rootpath
    return [p for pattern in config.getini("db_template_files") for p in sorted(root.glob(pattern))]
