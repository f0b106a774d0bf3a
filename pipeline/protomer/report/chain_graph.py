"""A chain as a graph: a box for each job, in rows by what it waits for, arrows from each to those that read it; an <svg> that needs no
script. An arrow that others imply (a to c, beside a to b to c) is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, ACROSS, DOWN = 176, 50, 24, 46  # of a box and of the gaps between, in px
LONGEST = 22  # letters that a box has room for


@dataclass(frozen=True)
class Node:
    """A box: its name, which is also the link, a note below it, and a class for its looks."""

    name: str
    note: str
    look: str
    parents: tuple[str, ...]


def graph_svg(nodes: Sequence[Node]) -> str:
    """The graph of nodes that stand in an order in which each comes after its parents."""
    rows = rows_of(nodes)
    wide = max(len(row) for row in rows) * (WIDTH + ACROSS) - ACROSS
    at: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        start = (wide - len(row) * (WIDTH + ACROSS) + ACROSS) / 2
        at |= {name: (start + place * (WIDTH + ACROSS), number * (HEIGHT + DOWN)) for place, name in enumerate(row)}
    tall = len(rows) * (HEIGHT + DOWN) - DOWN
    arrows = [_arrow(at[parent], at[node.name]) for node in nodes for parent in needed_parents(node, nodes)]
    boxes = [_box(node, *at[node.name]) for node in nodes]
    return (f'<svg class="graph" role="img" aria-label="The chain: {len(nodes)} jobs" viewBox="-2 -2 {wide + 4:.0f} {tall + 4:.0f}" '
            f'style="max-width: {wide + 4:.0f}px" xmlns="http://www.w3.org/2000/svg"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" '
            'refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
            + "".join(arrows + boxes) + "</svg>")


def rows_of(nodes: Sequence[Node]) -> list[list[str]]:
    """Names by row: a node stands one row below the lowest of its parents; within a row by where its parents stand."""
    depth: dict[str, int] = {}
    for node in nodes:
        depth[node.name] = max((depth[parent] + 1 for parent in node.parents if parent in depth), default=0)
    rows: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    place: dict[str, float] = {}
    for number, row in enumerate(rows):
        here = [node for node in nodes if depth[node.name] == number]
        row += [node.name for node in sorted(here, key=lambda node: _middle(node, place))]
        place |= {name: at - (len(row) - 1) / 2 for at, name in enumerate(row)}
    return rows


def needed_parents(node: Node, nodes: Sequence[Node]) -> list[str]:
    """The parents of a node that are no ancestors of its other parents."""
    above: dict[str, set[str]] = {}
    for other in nodes:
        above[other.name] = set(other.parents).union(*(above.get(parent, set()) for parent in other.parents))
    return [parent for parent in node.parents if parent in above
            and not any(parent in above.get(other, set()) for other in node.parents)]


def _middle(node: Node, place: Mapping[str, float]) -> float:
    known = [place[parent] for parent in node.parents if parent in place]
    return sum(known) / len(known) if known else 0.0


def _arrow(above: tuple[float, float], below: tuple[float, float]) -> str:
    x, y, to_x, to_y = above[0] + WIDTH / 2, above[1] + HEIGHT, below[0] + WIDTH / 2, below[1]
    bend = max(24.0, 0.45 * (to_y - y))
    return (f'<path d="M{x:.1f} {y:.1f} C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y - 1:.1f}" '
            'marker-end="url(#tip)"/>')


def _box(node: Node, x: float, y: float) -> str:
    return (f'<a href="#job-{escape(node.name)}"><g class="{escape(node.look)}" transform="translate({x:.1f} {y:.1f})">'
            f'<title>{escape(node.name)}: {escape(node.note)}</title><rect width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
            f'<text class="name" x="10" y="21">{escape(_short(node.name, LONGEST))}</text>'
            f'<text class="note" x="10" y="39">{escape(_short(node.note, LONGEST + 6))}</text></g></a>')


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
