"""Break `db/` on purpose, one thing at a time, and see that a test notices.

    python -m tests.mutants               all of them; writes tests/mutants.md
    python -m tests.mutants --only WORD   those whose room or description has the word (or words):
                                          their rows of the table are replaced
    python -m tests.mutants --check       only looks whether what they change is still there, and
                                          whether the table has them all

The list is `tests/mutations.py`. Each is a real edit of a copy of the project, and the tests named
there run on it. First they run on an unchanged copy, where they have to pass. A mutant whose text
is not in the code any more is an error: move it to where the promise is kept now.
Exit code 1 if one survives. It takes a quarter of an hour, so `.ci/run` leaves it out.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.mutations import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "mutants.md"
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".servers", ".postgres", "__pycache__", ".*_cache", "*.egg-info", "build"
)
_LIMIT_S = 120  # of a test: what hangs is noticed as well
_HEAD = """\
# Mutants

Written by `python -m tests.mutants`: what was broken in `db/`, one thing at a time, and the first
test that noticed. A mutant that survives is a promise that no test holds.

| room | broken | noticed by |
| --- | --- | --- |
"""


class Outcome(NamedTuple):
    """What became of a mutant: the test that noticed it, or nothing if none did."""

    mutant: Mutant
    noticed_by: str
    seconds: float


def check(mutants: Sequence[Mutant], root: Path = ROOT) -> list[str]:
    """Return what is wrong with the list: texts that are not there, or more than once."""
    wrong = []
    for mutant in mutants:
        number = (root / mutant.file).read_text(encoding="utf-8").count(mutant.old)
        if number != 1:
            wrong.append(f"{mutant.file}: {mutant.broken}: its text is there {number} times")
        try:
            compile(edited(mutant, root), mutant.file, "exec")
        except SyntaxError as error:
            wrong.append(f"{mutant.file}: {mutant.broken}: {error}")
    return wrong


def edited(mutant: Mutant, root: Path) -> str:
    return (root / mutant.file).read_text(encoding="utf-8").replace(mutant.old, mutant.new)


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """Yield a copy of a project, as it is in its folder."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder, "project")
        shutil.copytree(root, copy, ignore=_LEFT_OUT, symlinks=True)
        if (ROOT / ".servers").exists():
            (copy / ".servers").unlink(missing_ok=True)
            (copy / ".servers").symlink_to(ROOT / ".servers")
        yield copy


def tested(copy: Path, tests: str, server: str, *more: str) -> tuple[int, str]:
    """Run tests in a copy; return pytest's exit code and its output."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "--all", "-p", "no:cacheprovider", *more]
    command += ["--rounds=1", f"--timeout={_LIMIT_S}", f"--postgres={server}"]
    file, *options = shlex.split(tests)
    done = subprocess.run(
        [*command, f"tests/{file}", *options],
        cwd=copy,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def try_out(mutant: Mutant, root: Path, server: str) -> Outcome:
    """Run a mutant's tests until one fails. Raise `RuntimeError` if they cannot be run."""
    started = time.monotonic()
    with copied(root) as copy:
        (copy / mutant.file).write_text(edited(mutant, root), encoding="utf-8")
        for tests in mutant.tests:
            code, said = tested(copy, tests, server, "-n0", "-x")
            if code not in (0, 1):
                raise RuntimeError(f"pytest {tests} ended with {code}:\n{said}")
            if code:
                found = re.search(r"^(?:FAILED|ERROR) \S*?(\w+\.py\S*)", said, re.MULTILINE)
                return Outcome(mutant, found[1] if found else said, time.monotonic() - started)
    return Outcome(mutant, "", time.monotonic() - started)


def unchanged(mutants: Sequence[Mutant], root: Path, server: str) -> list[str]:
    """Return what fails without any change, where nothing should."""
    wanted: dict[str, set[str]] = {}
    for mutant in mutants:
        for tests in mutant.tests:
            file, _, name = tests.partition(" -k ")
            wanted.setdefault(file, set()).add(name.strip("'"))
    wrong = []
    for file, names in wanted.items():
        with copied(root) as copy:
            code, said = tested(copy, f"{file} -k '{' or '.join(sorted(names))}'", server)
        if code:
            wrong.append(f"without a change, {file} fails:\n{said}")
    return wrong


def begin(mutant: Mutant) -> str:
    """Return how its row of the table begins."""
    room = mutant.file.removeprefix("db/").removesuffix(".py")
    return f"| `{room}` | {mutant.broken} |"


def written() -> dict[str, str]:
    """Return the rows that the table has of these mutants, by how they begin."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    begins = [begin(mutant) for mutant in MUTANTS]
    return {known: line for known in begins for line in lines if line.startswith(known)}


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table with the rows of these; those of other mutants are as they are written."""
    rows = written()
    for mutant, noticed_by, _ in outcomes:
        file, _, test = noticed_by.partition("::")
        name = test.partition("[")[0] or file
        rows[begin(mutant)] = f"{begin(mutant)} {f'`{name}`' if name else '**nothing**'} |"
    known = (begin(mutant) for mutant in MUTANTS)
    return _HEAD + "".join(f"{rows[each]}\n" for each in known if each in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the code, and see that a test notices.")
    parser.add_argument("--only", nargs="+", help="words of the room or the description")
    parser.add_argument("--check", action="store_true", help="only look for the texts")
    parser.add_argument("--postgres", default="embedded", help="as for pytest")
    parser.add_argument("--jobs", type=int, default=2 * len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    words = options.only or [""]
    chosen = [m for m in MUTANTS if any(word in f"{m.file} {m.broken}" for word in words)]
    if options.check:
        wrong = check(chosen)
        there = written()
        wrong += [f"not in the table: {begin(m)}" for m in chosen if begin(m) not in there]
        sys.stdout.write("".join(f"{line}\n" for line in wrong) or f"{len(chosen)} mutants\n")
        return int(bool(wrong))
    with copied(ROOT) as root:  # what is edited from here on does not matter
        wrong = check(chosen, root) or unchanged(chosen, root, options.postgres)
        if wrong:
            sys.stdout.write("".join(f"{line}\n" for line in wrong))
            return 1
        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = []
            for outcome in pool.map(lambda m: try_out(m, root, options.postgres), chosen):
                outcomes.append(outcome)
                state = outcome.noticed_by or "SURVIVED"
                line = f"{outcome.seconds:4.0f} s  {outcome.mutant.file}  {outcome.mutant.broken}"
                print(f"{line}: {state}", flush=True)
    survivors = sum(not outcome.noticed_by for outcome in outcomes)
    print(f"{len(outcomes)} mutants, {survivors} survived")
    TABLE.write_text(table(outcomes), encoding="utf-8")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
