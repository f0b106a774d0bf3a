"""Builds report.html: warnings first, then headline figures, facts, sections with text, tables and figures. One self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protomer import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Headline:
    """One of the few numbers that a reader looks for first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Block:
    """One piece of the body, in order: kind is section, text, table, figure or markup, and content what the template needs for it."""

    kind: str
    content: Mapping[str, Any]


class Report:
    """Collects what a report shows, in order; `html()` gives the file. Text is escaped, never read as HTML."""

    def __init__(self, title: str, warnings: Sequence[Mapping[str, str]] = (), facts: Mapping[str, object] | None = None,
                 subtitle: str = "") -> None:
        """warnings: each with `code` and `text`, as job.events.warnings has them. facts: names and values for the table at the top."""
        self.title, self.subtitle, self.warnings = title, subtitle, list(warnings)
        self.facts = {name: str(value) for name, value in (facts or {}).items()}
        self.headlines: list[Headline] = []
        self.blocks: list[Block] = []

    def headline(self, label: str, value: str, note: str = "") -> None:
        """Show a number in large type at the top, such as ("resolution", "6.7 Å", "corrected FSC 0.143")."""
        self.headlines.append(Headline(label, value, note))

    def section(self, heading: str, text: str = "") -> None:
        """Begin a section."""
        self.blocks.append(Block("section", {"heading": heading}))
        if text:
            self.text(text)

    def text(self, paragraph: str) -> None:
        """Add a paragraph."""
        self.blocks.append(Block("text", {"text": paragraph}))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """Add a table; every row has one value per column. Raises ValueError where one has not."""
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(f"every row of a table with the columns {list(columns)} needs {len(columns)} values")
        cells = [[_cell(value) for value in row] for row in rows]
        self.blocks.append(Block("table", {"columns": list(columns), "rows": cells, "caption": caption}))

    def figure(self, figure: Figure, caption: str) -> None:
        """Add a figure made by protomer.report.figures; it is drawn now, as SVG that follows the page's colours."""
        from protomer.report.drawing import as_svg
        number = 1 + sum(block.kind == "figure" for block in self.blocks)
        self.blocks.append(Block("figure", {"svg": as_svg(figure, f"figure-{number}"), "caption": caption, "number": number}))

    def markup(self, html: str) -> None:
        """Add a piece of HTML as it is, made by a template of this folder or taken from another report."""
        self.blocks.append(Block("markup", {"html": html}))

    def html(self, template: str = "template.html", **more: str) -> str:
        """The whole report as one HTML text; `more`: what another template than the usual one needs."""
        return filled(template, title=self.title, subtitle=self.subtitle, warnings=self.warnings, facts=self.facts,
                      headlines=self.headlines, blocks=self.blocks, version=__version__, **more)


def filled(template: str, **values: object) -> str:
    """A template of this folder with its values; text is escaped."""
    import jinja2
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(**values)


def _cell(value: object) -> str:
    """A value of a table: numbers to four digits, so that columns can be read."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
