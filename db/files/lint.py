"""What squawk says of files before they run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import MigrationsError, SettingsError
from ..sql.script import Script
from .folder import Migration, find, load


def chosen(migrations: Sequence[Migration], name: str) -> Migration:
    """Return the file of that path, or the migration of that name."""
    path = Path(name)
    return load(path.absolute(), name) if path.is_file() else find(migrations, name)


def lint(migrations: Sequence[Migration], root: Path) -> Iterator[MigrationsError]:
    """Yield what squawk finds, in the order of the  Raise `SettingsError` without squawk."""
    program = shutil.which("squawk", path=Path(sys.executable).parent) or shutil.which("squawk")
    if program is None:
        raise SettingsError("squawk is not installed.", "Run: pip install '.[lint]'")
    config = root / ".squawk.toml"
    command = [program, "--reporter", "json"]
    if config.exists():
        command += ["--config", str(config)]
    by_path = {str(m.path): m for m in migrations}
    done = subprocess.run([*command, "--", *by_path], capture_output=True, check=False, cwd=root)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise SettingsError(f"squawk does not run: {said}") from None
    order = list(by_path)
    for finding in sorted(found, key=lambda f: (order.index(f["file"]), f["line"], f["column"])):
        migration = by_path[finding["file"]]
        lines = migration.path.read_bytes().splitlines(keepends=True)
        offset = sum(map(len, lines[: finding["line"]])) + finding["column"]  # 0-based, bytes
        with Script.open(migration.path, migration.shown) as script:
            yield MigrationsError(
                f"{finding['message']} ({finding['rule_name']})",
                *filter(None, [finding["help"]]),
                location=script.location(offset),
                excerpt=script.excerpt(offset),
            )
