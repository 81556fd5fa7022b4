"""The picture of the floors, docs/floors.svg, drawn from the imports that are in the code.

`python docs/pictures.py floors` writes it. Which room is on which floor, and what a room imports,
is asked of tests/test_imports.py, which also holds the code to it.
"""

from __future__ import annotations

import ast
from collections import Counter
from html import escape

from tests.test_imports import FLOORS, ORDER, PACKAGE, SCREEN_ROOMS, imported

# The two that are no folder, and so have no docstring of their own.
SAYS = {
    "ground": "What all speak of: what can go wrong, what happens, what is set.",
    "roof": "Parse, call, report, exit code.",
}
WIDTH, EDGE = 800, 14
LANES, LANE = 548, 36  # where the first arrow stands, and from one to the next
ROOM, GAP, LETTER = 22, 6, 7.3  # a room's height, the space around it, a letter's width
HEAD = 25  # a floor's name and sentence
COLOURS = {
    "ground": "#9aa4b2",
    "sql": "#87c882",
    "files": "#62c8d2",
    "server": "#6eaaf0",
    "engine": "#f0c064",
    "scratch": "#b8c45a",
    "rehearsal": "#e0b0a0",
    "fleets": "#a8b8e0",
    "clones": "#8fd0b0",
    "typed": "#d8c890",
    "commands": "#f09a70",
    "screen": "#c892ea",
    "roof": "#f07178",
}
SANS = "ui-sans-serif, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
MONO = "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"


def floors() -> dict[str, list[str]]:
    """Return the rooms of each floor, from the ground up, as the imports name them."""
    of = {floor: [f"{floor}.{room}" for room in rooms] for floor, rooms in FLOORS.items() if floor}
    every = [room for rooms in of.values() for room in rooms]
    screen = [f"screen.{room}" for room in SCREEN_ROOMS]
    roof = [room for room in ORDER if room not in (*FLOORS[""], *every)]
    return {"ground": FLOORS[""], **of, "screen": screen, "roof": roof}


def arrows(of: dict[str, list[str]]) -> Counter[tuple[str, str]]:
    """Return how many imports go from one floor to another. Raise if one goes upwards."""
    home = {room: floor for floor, rooms in of.items() for room in rooms}
    height = list(of)
    found: Counter[tuple[str, str]] = Counter()
    for room, floor in home.items():
        for below in imported(room):
            if below in home and home[below] != floor:
                if height.index(home[below]) > height.index(floor):
                    raise ValueError(f"{room} imports {below}, which is above it")
                found[floor, home[below]] += 1
    return found


def sentence(floor: str) -> str:
    """Return what a floor is for, as its folder's docstring says it."""
    if floor in SAYS:
        return SAYS[floor]
    text = (PACKAGE / floor / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").replace("->", "→")


def lines(rooms: list[str]) -> list[list[tuple[str, float]]]:
    """Return rooms with the widths of their boxes, as many on a line as fit left of the arrows."""
    found: list[list[tuple[str, float]]] = [[]]
    room_for = LANES - LANE / 2 - 2 * EDGE
    for room in rooms:
        name = room.rpartition(".")[2]
        width = round(len(name) * LETTER + 14, 1)
        if sum(w + GAP for _, w in found[-1]) + width > room_for:
            found.append([])
        found[-1].append((name, width))
    return found


def drawn() -> str:
    """Return the picture: the roof above, the ground below, and an arrow down from each floor."""
    of = floors()
    parts: list[str] = []
    top, middle = float(EDGE), dict[str, float]()
    for floor in reversed(of):
        rows = lines(of[floor])
        height = HEAD + len(rows) * (ROOM + GAP) + GAP
        middle[floor] = top + height / 2
        parts += _band(floor, rows, top, height)
        top += height + GAP
    parts += _arrows(arrows(of), middle)
    total = round(top - GAP + EDGE)
    count = sum(map(len, of.values()))
    said = f"{count} rooms on {len(of)} floors; each floor imports only from those below it"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" '
            f'width="{WIDTH}" height="{total}" role="img" aria-label="{said}">',
            f'<rect width="{WIDTH}" height="{total}" rx="8" fill="#1e222a"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _band(floor: str, rows: list[list[tuple[str, float]]], top: float, height: float) -> list[str]:
    colour = COLOURS[floor]
    parts = [
        f'<rect x="{EDGE}" y="{top:g}" width="{WIDTH - 2 * EDGE}" height="{height:g}" rx="5" '
        f'fill="{colour}" fill-opacity="0.13"/>',
        f'<rect x="{EDGE}" y="{top:g}" width="4" height="{height:g}" rx="2" fill="{colour}"/>',
        f'<text x="{2 * EDGE}" y="{top + 18:g}" font-family="{SANS}" font-size="13" fill="#b8c0cc">'
        f'<tspan font-weight="bold" fill="{colour}">{floor}</tspan>'
        f'<tspan dx="8">{escape(sentence(floor))}</tspan></text>',
    ]
    for number, row in enumerate(rows):
        x, y = 2.0 * EDGE, top + HEAD + number * (ROOM + GAP)
        for name, width in row:
            parts += [
                f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{ROOM}" rx="3" '
                f'fill="#1e222a" stroke="{colour}" stroke-opacity="0.6"/>',
                f'<text x="{x + width / 2:g}" y="{y + 15:g}" text-anchor="middle" '
                f'font-family="{MONO}" font-size="12" fill="#e4e8ee">{name}</text>',
            ]
            x += width + GAP
    return parts


def _arrows(count: Counter[tuple[str, str]], middle: dict[str, float]) -> list[str]:
    """Return a line down from each floor, which ends in a number at each one that it imports."""
    parts: list[str] = []
    above = [floor for floor in reversed(middle) if any(floor == source for source, _ in count)]
    for number, floor in enumerate(above):
        x, y, colour = LANES + number * LANE, middle[floor], COLOURS[floor]
        below = [target for target in middle if count[floor, target]]
        last = max(middle[target] for target in below)
        parts += [
            f'<path d="M{x:g} {y:g}V{last - 19:g}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{x:g}" cy="{y:g}" r="5" fill="{colour}"/>',
        ]
        for target in below:
            y = middle[target]
            parts += [
                f'<path d="M{x - 5:g} {y - 19:g}h10l-5 7z" fill="{colour}"/>',
                f'<circle cx="{x:g}" cy="{y:g}" r="12" fill="#1e222a" stroke="{colour}" '
                'stroke-width="1.5"/>',
                f'<text x="{x:g}" y="{y + 4.5:g}" text-anchor="middle" font-family="{SANS}" '
                f'font-size="12.5" fill="#ffffff">{count[floor, target]}</text>',
            ]
    return parts
