"""Draw the house: the rooms of camtrain, who imports whom, made from the imports alone.

    .venv/bin/python scripts/make_house.py     writes docs/images/house.svg

A room stands above all rooms that it imports; lines go down. What nearly everybody imports (errors, which Lightning
package it is) and what only forwards are left out.
"""

import ast
import sys
from functools import cache
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from figures import ROOT, imported, sources

ROOM_WIDTH, ROOM_HEIGHT, GAP, STOREY = 150, 46, 22, 92
MARGIN = 20
LEFT_OUT = {f"camtrain.{name}" for name in ("errors", "packages", "checks", "commands", "__main__")} | {"camtrain"}


def main() -> int:
    target = ROOT / "docs" / "images" / "house.svg"
    target.write_text(drawing(*rooms_and_imports()))
    print(target)
    return 0


def room_of(module: str) -> str:
    """The second part of a module's name; what lies in no folder counts by its own name."""
    return ".".join(module.split(".")[:2])


def rooms_and_imports() -> tuple[dict[str, int], dict[str, set[str]]]:
    """Lines of source by room, and the rooms that each imports."""
    files = sources(ROOT)
    lines: dict[str, int] = {}
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        if room_of(name) in LEFT_OUT:
            continue
        text, room = path.read_text(), room_of(name)
        lines[room] = lines.get(room, 0) + len(text.splitlines())
        edges.setdefault(room, set()).update(map(room_of, imported(ast.parse(text), set(files))))
    return lines, {room: others - {room} - LEFT_OUT for room, others in edges.items()}


def storeys(edges: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by how many stand below one another under them; rooms that import each other share a storey."""

    @cache
    def depth(room: str, above: frozenset[str] = frozenset()) -> int:
        below = edges.get(room, set()) - above - {room}
        return max((1 + depth(other, above | {room}) for other in below), default=0)

    levels: dict[int, list[str]] = {}
    for room in sorted(edges):
        levels.setdefault(depth(room), []).append(room)
    return [levels[level] for level in sorted(levels)]


def drawing(lines: dict[str, int], edges: dict[str, set[str]]) -> str:
    """The picture as SVG; it follows the reader's light or dark mode."""
    floors = storeys(edges)
    width = MARGIN * 2 + max(map(len, floors)) * (ROOM_WIDTH + GAP) - GAP
    height = MARGIN * 2 + len(floors) * STOREY - (STOREY - ROOM_HEIGHT)
    places = {}
    for level, floor in enumerate(floors):
        free = (width - (len(floor) * (ROOM_WIDTH + GAP) - GAP)) / 2
        for column, room in enumerate(floor):
            places[room] = free + column * (ROOM_WIDTH + GAP), height - MARGIN - ROOM_HEIGHT - level * STOREY
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="system-ui, sans-serif" role="img" aria-label="The rooms of camtrain and their imports">',
        "<style>rect{fill:#eef1fb;stroke:#3949ab}text{fill:#1a1f36}path{stroke:#3949ab}"
        "@media (prefers-color-scheme: dark){rect{fill:#232a45;stroke:#9fa8da}text{fill:#e8eaf6}path{stroke:#9fa8da}}"
        "</style>",
    ]
    for room, others in sorted(edges.items()):
        x, y = places[room]
        for other in sorted(others & places.keys()):
            left, top = places[other]
            a, b = (x + ROOM_WIDTH / 2, y + ROOM_HEIGHT), (left + ROOM_WIDTH / 2, top)
            bend = (a[1] + b[1]) / 2
            curve = f"M{a[0]:.0f} {a[1]:.0f}C{a[0]:.0f} {bend:.0f} {b[0]:.0f} {bend:.0f} {b[0]:.0f} {b[1]:.0f}"
            parts.append(f'<path d="{curve}" fill="none" opacity=".28"/>')
    for room, (x, y) in places.items():
        title = escape(room.removeprefix("camtrain."))
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{ROOM_WIDTH}" height="{ROOM_HEIGHT}" rx="6"/>'
            f'<text x="{x + ROOM_WIDTH / 2:.0f}" y="{y + 20:.0f}" text-anchor="middle" font-size="15">{title}</text>'
            f'<text x="{x + ROOM_WIDTH / 2:.0f}" y="{y + 37:.0f}" text-anchor="middle" font-size="11" opacity=".7">'
            f"{lines[room]:,} lines</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    sys.exit(main())
