"""Make the pictures of the documentation: `python docs/pictures.py`, in the project's folder.

docs/migrate.svg, failure.svg, rehearse.svg and drift.svg are what real runs print on a terminal of
80 columns, on a server that is made for them and removed again. Its port is PostgreSQL's own, 5432,
which must be free. docs/floors.svg shows the code, and needs no server:
`python docs/pictures.py floors`.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from floors import drawn  # noqa: E402

from tests.conftest import Project  # noqa: E402
from tests.servers import DEPLOY, Cluster, programs  # noqa: E402

COLUMNS, ROWS = 80, 40
PORT, DATABASE = 5432, "whatsapp"

THEME = TerminalTheme(
    (30, 34, 42),
    (212, 216, 224),
    [
        (30, 34, 42),
        (240, 113, 120),
        (135, 200, 130),
        (240, 192, 100),
        (110, 170, 240),
        (200, 146, 234),
        (98, 200, 210),
        (212, 216, 224),
    ],
    [
        (110, 118, 132),
        (255, 138, 143),
        (160, 220, 155),
        (255, 214, 130),
        (140, 190, 255),
        (220, 170, 250),
        (130, 220, 228),
        (255, 255, 255),
    ],
)

THROTTLE = """\
-- Migration: 004_add_speed
-- Created at: 2026-11-26
-- Description: How many messages of a campaign may be sent in a second.

ALTER TABLE campaigns ADD COLUMN messages_per_second integer;
"""
WRONG = """\
-- Migration: 005_mark_delivered
-- Created at: 2026-11-27
-- Description: Old messages were read without a report that they were delivered.

UPDATE messages
SET delivered_at = coalesce(read_at, sent_on)
WHERE status = 'read' AND delivered_at IS NULL;
"""
LANGUAGE = """\
-- Migration: 007_add_contacts_region
-- Created at: 2026-11-28
-- Description: The region that a contact is written to from.

ALTER TABLE contacts ADD COLUMN region text;

UPDATE contacts SET region = 'eu';

ALTER TABLE contacts ALTER COLUMN region SET NOT NULL;
"""
INDEX = """\
-- Migration: 008_add_contacts_name_index
-- Created at: 2026-11-28
-- Description: Contacts are searched by name.
-- migrate: no-transaction

CREATE INDEX CONCURRENTLY contacts_name_idx ON contacts (full_name);
"""
CONTACTS = """\
INSERT INTO users (id, email, full_name)
VALUES ('00000000-0000-4000-8000-000000000001', 'shop@customer.example', 'A shop');
INSERT INTO contacts (user_id, phone_number, full_name)
SELECT '00000000-0000-4000-8000-000000000001', '+49' || n, 'Customer ' || n
FROM generate_series(100000000, 100399999) AS n;
"""
LATER = "ALTER TABLE messages VALIDATE CONSTRAINT messages_timestamps_check;\n"

BY_HAND = """\
CREATE INDEX night_shift ON messages (created_at);
ALTER TABLE contacts ALTER full_name TYPE varchar(100);
ALTER TABLE contact_lists DISABLE TRIGGER USER;
"""

# Some programs drop the spaces that a text begins with, so it is moved instead.
_CELL = 12.2  # the width of a character, in rich's drawing
_SPACE = "&#160;"
_INDENTED = re.compile(
    rf'(<text [^>]* x="([\d.]+)"[^>]* textLength="([\d.]+)"[^>]*>)((?:{_SPACE})+)'
)
_BLANK = re.compile(r"<text [^>]*>\s*</text>")


def examples() -> dict[str, str]:
    """Return the files that migrations/README.md shows, by their names."""
    text = (ROOT / "migrations" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    named = ((re.search(r"-- Migration: (.*)", block), block) for block in blocks)
    return {f"{found[1]}.sql": block for found, block in named if found}


def on_a_terminal(project: Project, *arguments: str) -> str:
    """Run invoke on a pseudo-terminal and return all that it prints, colours included."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [Path(sys.executable).parent / "invoke", *arguments],
        cwd=project.folder,
        env=project.environment({"TERM": "xterm-256color"}),
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    said = b""
    while True:
        try:
            block = os.read(mine, 65536)
        except OSError:  # Linux's way to say that nobody writes any more
            break
        if not block:
            break
        said += block
    os.close(mine)
    process.wait()
    return said.decode().replace("\r\n", "\n").rstrip("\n")


def _shifted(found: re.Match[str]) -> str:
    spaces = found[4].count("&")
    x, length = (float(found[n]) + sign * spaces * _CELL for n, sign in ((2, 1), (3, -1)))
    return re.sub(
        r' x="[^"]+"(.*) textLength="[^"]+"',
        rf' x="{x:g}"\1 textLength="{length:g}"',
        found[1],
    )


def draw(path: Path, command: str, said: str) -> None:
    """Write the picture of a command and of what it printed; a line too long is an error."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Text.assemble(("$ ", "bright_black"), (command, "bold")))
    for line in Text.from_ansi(said).split(allow_blank=True):
        console.print(line, soft_wrap=True, crop=False)
        assert len(line) <= COLUMNS, f"a terminal would wrap this: {line.plain}"
    svg = console.export_svg(title="", theme=THEME, unique_id=path.stem)
    # No font from somebody else's server: the reader's own monospaced one.
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")
    svg = _BLANK.sub("", _INDENTED.sub(_shifted, svg))
    svg = re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)
    path.write_text(svg.rstrip() + "\n", encoding="utf-8")


def runs() -> None:
    """Run what the pictures of a terminal show, and draw it."""
    cluster = Cluster(programs("embedded"))
    folder = Path(tempfile.mkdtemp())
    try:
        cluster.port = PORT
        cluster.restart()
        with cluster.connect() as conn:
            conn.execute(f"CREATE DATABASE {DATABASE} OWNER {DEPLOY}".encode())
        (folder / "project").mkdir()
        project = Project(folder / "project", cluster, DATABASE)
        project.url = cluster.url(DATABASE, role=DEPLOY).replace("127.0.0.1", "localhost")
        shutil.copy(
            ROOT / "migrations" / "001_add_whatsapp_instances_table.sql", project.migrations
        )
        seed, index = examples().items()
        project.write(*seed)
        project.write(*index)
        command = "invoke db.migrate"
        draw(DOCS / "migrate.svg", command, on_a_terminal(project, *command.split()[1:]))

        project.write("004_add_speed.sql", THROTTLE)
        project.write("005_mark_delivered.sql", WRONG)
        project.write("006_validate_timestamps.sql", LATER)
        command = "invoke db.migrate-run"
        draw(DOCS / "failure.svg", command, on_a_terminal(project, *command.split()[1:]))

        for name in ("005_mark_delivered.sql", "006_validate_timestamps.sql"):
            (project.migrations / name).unlink()
        project.write("007_add_contacts_region.sql", LANGUAGE)
        project.write("008_add_contacts_name_index.sql", INDEX)
        with cluster.connect(DATABASE) as conn:
            conn.execute(CONTACTS.encode())
            conn.execute("VACUUM ANALYZE contacts")
        command = "invoke db.rehearse"
        draw(DOCS / "rehearse.svg", command, on_a_terminal(project, *command.split()[1:]))

        with cluster.connect(DATABASE) as conn:
            conn.execute(BY_HAND.encode())
        command = "invoke db.drift"
        draw(DOCS / "drift.svg", command, on_a_terminal(project, *command.split()[1:]))
    finally:
        cluster.remove()
        shutil.rmtree(folder)


if __name__ == "__main__":
    (DOCS / "floors.svg").write_text(drawn(), encoding="utf-8")
    if sys.argv[1:] != ["floors"]:
        runs()
