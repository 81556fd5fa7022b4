"""A setting and a directive take the same durations."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.errors import ScriptError, SettingsError
from db.settings import Settings
from db.sql.script import Script


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("250", 250),
        ("500ms", 500),
        ("2s", 2000),
        ("10min", 600_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("2147483647", 2_147_483_647),
        ("2147483648", None),
        ("25d", None),
        ("-1", None),
        ("1.5s", None),
        ("2x", None),
        ("٢s", None),
    ],
)
def test_a_setting_and_a_directive_take_the_same(tmp_path: Path, text: str, ms: int | None) -> None:
    file = tmp_path / "001_a.sql"
    file.write_text(f"-- migrate: lock-timeout={text}\nSELECT 1;\n")
    with Script.open(file, "001_a.sql") as script:
        if ms is not None:
            assert script.directives.lock_timeout_ms == ms
        else:
            with pytest.raises(ScriptError, match="lock-timeout needs a duration"):
                _ = script.directives
    values = {"MIGRATIONS_LOCK_TIMEOUT": text}
    if ms is not None:
        assert Settings.of("postgresql:///x", tmp_path, values=values).lock_timeout_ms == ms
    else:
        with pytest.raises(SettingsError, match="is not a duration"):
            Settings.of("postgresql:///x", tmp_path, values=values)
