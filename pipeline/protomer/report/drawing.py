"""How figures look, and how they become SVG inside a page. Matplotlib's object interface only: no global state, no window.

Axes, ticks and text are drawn in one marker colour that is replaced by `currentColor`, so that they are dark on a light page and light
on a dark one; the colours of data (after Okabe & Ito) are readable on both.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

INK = "#010203"  # stands for the page's text colour
BLUE, ORANGE, GREEN, RED, PURPLE, GREY, SKY = "#3b82c4", "#e08a1e", "#1fa07a", "#d1495b", "#a06cc0", "#8a94a3", "#67b7e1"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY)
STYLE: dict[str, Any] = {
    "font.size": 9.0, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.6,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none", "svg.fonttype": "none", "axes.grid": True,
    "grid.color": GREY, "grid.alpha": 0.22, "grid.linewidth": 0.6, "axes.axisbelow": True,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function that draws a figure draw all of it in the style of the reports, legends and annotations too."""
    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)
    return wrapped


def new_figure(columns: int = 1, width_in: float = 8.0, height_in: float = 3.6, **subplot_options: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure with a row of axes, for functions that are `styled`."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, **subplot_options)[0])


def add_bar(figure: Figure, picture: Any, axes: Any, label: str, shrink: float = 0.9) -> None:
    """A colour bar beside the axes of a picture."""
    bar = figure.colorbar(picture, ax=axes, shrink=shrink, pad=0.02)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(color=INK, labelcolor=INK)
    bar.outline.set_visible(False)  # type: ignore[operator]


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element, the same text each time; `name` keeps its ids apart from those of other figures on the page."""
    import matplotlib
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name, "savefig.dpi": 160}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="((?:figure|axes|patch|line2d|text|matplotlib|xtick|ytick|legend|PathCollection)[^"]*)"', rf'id="{name}-\1"', text)
    return text.replace(INK, "currentColor")


def as_png(figure: Figure, dots_per_inch: int = 110) -> bytes:
    """The figure as a PNG on white, for programs that want a picture file."""
    import matplotlib
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "savefig.facecolor": "white"}):
        figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()
