"""What a program calls: records, nothing printed, nothing asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import db
from db import Settings, baseline, errors, events, migrate, plan, rollback, status, verify
from tests.conftest import Project
from tests.scenarios.test_engine import wait_for

ROOT = Path(__file__).resolve().parents[2]


def write(project: Project, *numbers: int) -> None:
    for n in numbers:
        project.write(f"{n:03}_t{n}.sql", f"CREATE TABLE t{n} (id int);")
        project.write(f"{n:03}_t{n}.down.sql", f"DROP TABLE t{n};")


@pytest.fixture(params=["a URL", "Settings"])
def where(request: pytest.FixtureRequest, project: Project) -> tuple[Any, ...]:
    """What each function takes first."""
    if request.param == "a URL":
        return project.url, project.migrations
    return (Settings.of(project.url, project.migrations),)


def test_what_the_commands_do_as_records(
    project: Project, where: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, 1, 2, 3)
    assert [(s.filename, s.runs, s.refused) for s in plan(*where, to="002_t2.sql")] == [
        ("001_t1.sql", "in a transaction", None),
        ("002_t2.sql", "in a transaction", None),
    ]
    assert migrate(*where, to="002_t2.sql") == ["001_t1.sql", "002_t2.sql"]
    assert [(e.filename, e.state) for e in status(*where)] == [
        ("001_t1.sql", "executed"),
        ("002_t2.sql", "executed"),
        ("003_t3.sql", "pending"),
    ]
    assert verify(*where) == ()
    project.write("001_t1.sql", "SELECT 'edited';")
    assert [(e.filename, e.state) for e in verify(*where)] == [("001_t1.sql", "changed")]
    write(project, 1)
    assert rollback(*where, to="001_t1.sql") == ["002_t2.sql"]
    assert baseline(*where, to="002_t2.sql") == ["002_t2.sql"]
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]
    assert capsys.readouterr() == ("", "")


def test_an_error_of_who_listens_ends_the_run_though_the_error_is_kept(project: Project) -> None:
    write(project, 1, 2)

    def stumbles(event: events.Event) -> None:
        if isinstance(event, events.Applied):
            raise KeyError("mine")

    with pytest.raises(KeyError) as kept:
        migrate(project.url, project.migrations, on_event=stumbles)
    with project.cluster.connect(project.database) as conn:
        there = (
            "SELECT application_name FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        wait_for(lambda: conn.execute(there).fetchall() == [])
    assert kept.value.__traceback__ is not None
    migrate(project.url, project.migrations)
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]


def test_the_plan_tells_why_a_file_would_be_refused(project: Project) -> None:
    project.write("001_v.sql", "VACUUM;")
    (step,) = plan(project.url, project.migrations)
    assert isinstance(step.refused, errors.ScriptError)
    assert step.refused.location == errors.Location(f"{project.migrations}/001_v.sql", 1, 1)


def test_all_refusals_are_in_one_error(project: Project) -> None:
    for n in range(1, 21):
        project.write(f"{n:03}_v.sql", "VACUUM;")
    with pytest.raises(errors.Refused) as caught:
        migrate(project.url, project.migrations)
    assert len(caught.value.refusals) == 20
    assert str(caught.value).count("VACUUM cannot run in a transaction") == 10
    assert "... and 10 more" in str(caught.value)


@pytest.mark.parametrize(
    "function", [migrate, status, plan, verify, rollback, baseline], ids=lambda f: f.__name__
)
def test_each_function_gives_its_events_to_a_listener(
    project: Project, function: Callable[..., Any]
) -> None:
    write(project, 1)
    migrate(project.url, project.migrations)
    seen: list[events.Event] = []
    function(project.url, project.migrations, on_event=seen.append)
    assert any(isinstance(event, events.Connected) for event in seen)


def test_settings_and_a_folder_are_one_too_many(project: Project) -> None:
    with pytest.raises(TypeError):
        status(Settings.of(project.url, project.migrations), project.migrations)


def test_settings_of_a_program_take_what_env_would_hold_and_no_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATIONS_TABLE", "other")
    write(project, 1)
    schema = project.folder / "base.sql"
    schema.write_text("CREATE TABLE base ();")
    values = {"MIGRATIONS_TABLE": "public.ours"}
    settings = Settings.of(project.url, project.migrations, schema=schema, values=values)
    assert project.url not in repr(settings)
    assert migrate(settings) == ["schema.sql", "001_t1.sql"]
    assert [row["filename"] for row in project.rows("public.ours")] == ["schema.sql", "001_t1.sql"]


def test_every_name_that_is_exported_is_there() -> None:
    for name in db.__all__:
        assert getattr(db, name) is not None


def test_the_import_of_the_package_needs_no_driver() -> None:
    code = "import sys, db; sys.exit('psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
