"""What squawk says of files before they run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import Location, MigrationsError, ScriptError, SettingsError, counted, listed, pip
from ..sql.script import Script
from .folder import Migration, find, load

# What a frame of BEGIN and COMMIT around a file, or in a no-transaction file, is to squawk: the
# runner takes it, and refuses what it does not take.
_ACCEPTED = ("transaction-nesting",)


class Finding(MigrationsError):
    """What squawk says about one place."""

    def __init__(
        self, rule: str, message: str, *advice: str, location: Location, excerpt: str
    ) -> None:
        super().__init__(f"{message} ({rule})", *advice, location=location, excerpt=excerpt)
        self.rule = rule
        self.row = (str(location), rule, message)


def chosen(migrations: Sequence[Migration], name: str) -> Migration:
    """Return the file of that path, or the migration of that name."""
    path = Path(name)
    return load(path.absolute(), name) if path.is_file() else find(migrations, name)


def lint(migrations: Sequence[Migration], root: Path) -> Iterator[Finding]:
    """Yield what squawk finds, in the order of the files. Raise `SettingsError` without squawk."""
    program = shutil.which("squawk", path=Path(sys.executable).parent) or shutil.which("squawk")
    if program is None:
        raise SettingsError("squawk is not installed.", f"Run: {pip('lint')}")
    config = root / ".squawk.toml"
    command = [program, "--reporter", "json"]
    if config.exists():
        command += ["--config", str(config)]
    alone = {m for m in migrations if not _is_transactional(m)}
    found = _said([*command, "--no-assume-in-transaction"], alone, root)
    found += _said(command, set(migrations) - alone, root)
    by_path = {str(m.path): m for m in migrations}
    order = list(by_path)
    for finding in sorted(found, key=lambda f: (order.index(f["file"]), f["line"], f["column"])):
        if finding["rule_name"] not in _ACCEPTED:
            yield _placed(by_path[finding["file"]], finding)


def summary(found: Sequence[Finding], migrations: int) -> MigrationsError:
    """Return the error that sums them up: by file, and by rule with squawk's advice."""
    by_file = Counter(finding.filename for finding in found)
    by_rule = Counter(finding.rule for finding in found)
    helps = {finding.rule: finding.advice for finding in reversed(found)}
    error = MigrationsError(
        f"Found by squawk: {len(found)}, in {len(by_file)} of {counted(migrations, 'file')}: "
        f"{listed([f'{name} {number}' for name, number in by_file.most_common()])}.",
        *(" ".join([f"{rule} {number}:", *helps[rule]]) for rule, number in by_rule.most_common()),
        "Which rules hold, is in .squawk.toml; they are explained at https://squawkhq.com/docs/rules",
    )
    error.parts = tuple(found)
    return error


def _is_transactional(migration: Migration) -> bool:
    with Script.open(migration.path, migration.shown) as script:
        try:
            return script.directives.transaction
        except ScriptError:  # a run would say so
            return True


def _said(command: list[str], files: Collection[Migration], root: Path) -> list[dict[str, Any]]:
    if not files:
        return []
    paths = [str(m.path) for m in files]
    done = subprocess.run([*command, "--", *paths], capture_output=True, check=False, cwd=root)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise SettingsError(f"squawk does not run: {said}") from None
    return found


def _placed(migration: Migration, finding: dict[str, Any]) -> Finding:
    lines = migration.path.read_bytes().splitlines(keepends=True)
    offset = sum(map(len, lines[: finding["line"]])) + finding["column"]  # 0-based, bytes
    with Script.open(migration.path, migration.shown) as script:
        return Finding(
            finding["rule_name"],
            finding["message"],
            *filter(None, [finding["help"]]),
            location=script.location(offset),
            excerpt=script.excerpt(offset),
        )
