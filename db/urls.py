"""A URL, or PG* variables -> libpq's parameters, and never a password in an error."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import SettingsError

_PORT = re.compile(r"\s*\+?(\d+)\s*", re.ASCII)
_LAST_PORT = 65535
_PASSWORD = re.compile(r"password\s*=")
_TELLING = re.compile(rf":/|:\S*@|{_PASSWORD.pattern}")
_SHOWN = ("host", "hostaddr", "dbname", "user", "service")  # of libpq's parameters


def may_tell(text: str) -> bool:
    """Return whether a text may hold a password: a URL does, or a keyword string, wherever it is.

    Such a text is quoted in no message. A path has lost one slash of a URL.
    """
    return bool(_TELLING.search(text))


def refuse_url(text: str, name: str) -> None:
    """Refuse a text that may hold a password, in the place `name` of what is shown."""
    if may_tell(text):
        raise SettingsError(
            f"{name} holds what may be a URL, which is not shown here.",
            "The target's URL is that of DATABASE_URL, and a server for disposable databases is "
            "named by MIGRATIONS_SCRATCH.",
        )


def variables(values: Mapping[str, str]) -> dict[str, str]:
    """Return libpq's PG* variables as parameters, so that .env may hold them too.

    https://www.postgresql.org/docs/current/libpq-envars.html
    """
    from psycopg import pq

    known = {o.envvar.decode(): o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
    found = {known[name]: value for name, value in values.items() if name in known}
    for name, part in known.items():
        if part in _SHOWN and name in values:
            refuse_url(values[name], name)
    _check_port(found, "PGPORT")
    return found


def parse(url: str, name: str = "DATABASE_URL") -> dict[str, str]:
    """Return libpq's parameters of a URL or keyword string; never quote it in an error.

    `name` is the setting that holds it, as a sentence calls it. Raise `SettingsError` if it is not
    understood.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if "://" in url:
        _check(url, name)
    elif "=" not in url:
        raise SettingsError(
            f"{name} is not a PostgreSQL URL.",
            "It looks like postgresql://user:password@host:5432/name"
            + (", or embedded:" if name == "DATABASE_URL" else ""),
        )
    try:
        found = {k: str(v) for k, v in conninfo_to_dict(url).items() if v is not None}
    except ProgrammingError as error:
        # libpq's message may quote the password, unless it names a parameter.
        unknown = re.search(
            r'invalid (?:URI query parameter|connection option):? "(\w+)"', str(error)
        )
        # It could be what follows a space or & in a password.
        if unknown and not _PASSWORD.search(url):
            message = f"{name} has a parameter that libpq does not know: {unknown[1]}"
            raise SettingsError(message, "Remove it; sslmode=require replaces ssl=true.") from None
        raise SettingsError(
            f"{name} cannot be understood.",
            "Percent-encode special characters, or set PGHOST, PGUSER, PGPASSWORD, … instead.",
        ) from None
    for part in filter(found.__contains__, _SHOWN):
        refuse_url(found[part], f"The {part} in {name}")
    _check_port(found, name)
    return found


def _check_port(parameters: Mapping[str, str], name: str) -> None:
    """Refuse what is no port: libpq would look it up as a name until the time is over.

    It is not quoted: without an @ behind it, what stands there is the password.
    """
    for port in parameters.get("port", "").split(","):  # one for each host; none: the default
        number = _PORT.fullmatch(port)
        if port and not (number and 1 <= int(number[1]) <= _LAST_PORT):
            raise SettingsError(
                f"The port in {name} is no number from 1 to {_LAST_PORT}.",
                "It stands behind the host: postgresql://user:password@host:5432/name"
                if name != "PGPORT"
                else "Such as: PGPORT=5432",
            )


def _check(url: str, name: str) -> None:
    """Refuse what libpq would read as something else than was meant, naming the character."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres"):
        raise SettingsError(
            f"{name} begins with {scheme.split(':')[0]}://, which is not PostgreSQL's scheme."
            if re.fullmatch(r"[\w+.:-]+", scheme)
            else f"{name} does not begin with postgresql://.",
            "Write postgresql://user:password@host:5432/name.",
        )
    from urllib.parse import quote

    if not _is_utf8(rest):
        raise SettingsError(
            f"{name} holds a percent-encoded character that is not UTF-8.",
            "Write é as %C3%A9. Or set PGUSER, PGPASSWORD, PGDATABASE, which need no escaping.",
        )
    before, at, _ = rest.rpartition("@")
    if not at or before.startswith("/"):
        return
    _, _, password = before.partition(":")
    for character in "@/?#[] ":
        if character in before:
            raise SettingsError(
                f"The user or password in {name} holds '{character}', "
                f"which must be written {quote(character, safe='')} there.",
                "Or set PGPASSWORD (and PGUSER), which need no escaping.",
            )
    if re.search(r"%(?![0-9A-Fa-f]{2})", password):
        raise SettingsError(
            f"The password in {name} holds '%', which must be written %25 there.",
            "Or set PGPASSWORD, which needs no escaping.",
        )


def _is_utf8(text: str) -> bool:
    from urllib.parse import unquote_to_bytes

    try:
        unquote_to_bytes(text).decode()
    except UnicodeDecodeError:  # which holds the password: no error of ours is raised in here
        return False
    return True
