"""What was checked is what runs: a file that becomes another one while it is read is an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from db.errors import FileChanged
from db.sql.script import Script
from db.sql.source import BLOCK, Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.sql"
    path.write_bytes((b"SELECT 1;%b\n" % (b" " * 990)) * (6 * BLOCK // 1000))
    return path


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(7 * BLOCK // 2)
        file.write(b"2")


def overwritten_and_dated_back(path: Path) -> None:
    before = path.stat()
    overwritten(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_off(path: Path) -> None:
    os.truncate(path, BLOCK // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


CHANGES = [overwritten, overwritten_and_dated_back, cut_off, emptied]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_changed_behind_its_reader_is_an_error(
    path: Path, change: Callable[[Path], None]
) -> None:
    source = Source.open(path, "a.sql")
    assert sum(map(len, source.chunks((0, source.size)))) == source.size
    change(path)
    with pytest.raises(FileChanged, match=r"^a\.sql was (written to|cut off) while it was read"):
        list(source.chunks((0, source.size)))
    source.close()


@pytest.mark.parametrize("change", CHANGES)
def test_no_statement_of_a_changed_file_is_another_one_than_was_checked(
    path: Path, change: Callable[[Path], None]
) -> None:
    with Script.open(path, "a.sql") as script:
        _ = script.checksum
        statements, seen = script.body(), 0
        with pytest.raises(FileChanged):
            for found in statements:
                assert script.sql(found) == b"SELECT 1"
                seen += 1
                if seen == 10:
                    change(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_small_file_is_what_it_was_when_it_was_opened(
    path: Path, change: Callable[[Path], None]
) -> None:
    os.truncate(path, BLOCK - 6)
    with Script.open(path, "a.sql") as script:
        change(path)
        assert {script.sql(found) for found in script.body()} == {b"SELECT 1"}


def test_what_is_added_to_a_file_is_not_read(path: Path) -> None:
    with Script.open(path, "a.sql") as script:
        checksum = script.checksum
        with path.open("ab") as file:
            file.write(b"SELECT 2;")
        assert b"SELECT 2" not in map(script.sql, script.body())
        assert Script.open(path, "a.sql").checksum != checksum


def test_another_file_in_its_place_is_not_read(path: Path) -> None:
    with Script.open(path, "a.sql") as script:
        other = path.with_suffix(".new")
        other.write_bytes(b"SELECT 2;\n")
        other.replace(path)
        assert {script.sql(found) for found in script.body()} == {b"SELECT 1"}


def test_a_span_is_the_same_however_it_is_read(path: Path) -> None:
    text = path.read_bytes()
    source = Source.open(path, "a.sql")
    for start, end in [
        (0, 0),
        (0, 3),
        (BLOCK - 1, BLOCK + 1),
        (5, 3 * BLOCK + 7),
        (9, len(text) + 9),
    ]:
        assert source.read(start, end) == text[start:end]
        assert b"".join(source.chunks((start, min(end, len(text))))) == text[start:end]
    assert source.line_start(BLOCK + 3) == text.rfind(b"\n", 0, BLOCK + 3) + 1
    source.close()
    source.close()


def test_a_file_that_is_gone_is_an_error_of_ours(path: Path) -> None:
    path.unlink()
    with pytest.raises(FileChanged, match=r"^a\.sql cannot be read any more: No such file"):
        Script.open(path, "a.sql")
