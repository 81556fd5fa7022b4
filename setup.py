"""What pyproject.toml cannot say: the package has a module that is this project's only."""

from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

OURS = ("models",)  # made by invoke db.models, for db/schema.sql and migrations/


class Build(build_py):
    """Leaves it out of a wheel."""

    def find_package_modules(self, package: str, package_dir: Any) -> Any:
        """Return package, name and file of each module."""
        found = super().find_package_modules(package, package_dir)
        return [each for each in found if "." in package or each[1] not in OURS]


setup(cmdclass={"build_py": Build})
