"""invoke-pg-migrations: the commands without a tasks.py, in any repository."""

from __future__ import annotations

import os
from pathlib import Path

from invoke.collection import Collection
from invoke.config import AmbiguousMergeError
from invoke.exceptions import Exit
from invoke.program import Program

from . import tasks
from .errors import one_line
from .project import find_root
from .screen.spelling import respelled

NAME = "invoke-pg-migrations"


class _Commands(Program):
    """invoke's own program, with our commands, and a project that is found by its files."""

    def print_version(self) -> None:
        from importlib.metadata import version

        print(f"{NAME} {version(NAME)}")  # noqa: T201

    def update_config(self, merge: bool = True) -> None:
        """Read the project's invoke.yaml as well, where the project is known."""
        try:
            here = Path.cwd()
            starts = any(task.name == "init" for task in self.tasks)  # a project of its own
            root = here if starts else find_root(here, os.environ)
        except OSError as error:
            raise Exit(f"The working directory cannot be read: {error.strerror}.", 2) from None
        self.config.set_project_location(root)
        self._load_project(root)
        super().update_config(merge)

    def _load_project(self, root: Path) -> None:
        try:
            self.config.load_project(merge=False)
            if not isinstance(getattr(self.config, "_project", None), dict | None):
                raise TypeError("it holds no names with values, such as db: below which ours are")
            self.config.merge()
        except Exception as error:  # whatever its reader raises
            said = _placed(error).rstrip(".")
            message = f"The invoke.yaml in {root} cannot be read: {said}. Nothing was executed."
            raise Exit(message, 2) from None


def _placed(error: Exception) -> str:
    """Return what is wrong with a file on one line, and where in it if its reader says that."""
    if isinstance(error, AmbiguousMergeError):  # whose text is all that invoke has there
        return "it has one value where invoke has names below, such as run: and tasks:"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark and problem:
        return f"line {mark.line + 1}, column {mark.column + 1}: {one_line(problem)}"
    return one_line(str(error)) or type(error).__name__


def main() -> None:
    """Run the command of the command line."""
    commands = Collection.from_module(tasks)
    names = set(commands.task_names)
    for task in commands.tasks.values():  # whose help speaks of invoke
        task.__doc__ = respelled(task.__doc__ or "", names, f"{NAME} ")
        task.help = {k: respelled(v, names, f"{NAME} ") for k, v in task.help.items()}
    _Commands(name=NAME, binary=NAME, namespace=commands).run()
