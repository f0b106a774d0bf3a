"""What a job's report.html says first, taken into another page: its headlines, and its figures with their captions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape

_HEADLINE = re.compile(r'<div class="label">(.*?)</div><div class="value">(.*?)</div>\s*<div class="note">(.*?)</div>', re.DOTALL)
_FIGURE = re.compile(r'<figure id="figure-\d+"[^>]*>\s*(<svg.*?</svg>)\s*<figcaption>(?:Figure \d+\. )?(.*?)</figcaption>', re.DOTALL)
_NAME = re.compile(r'(\bid="|url\(#|href="#)')
FIRST = "Fourier shell correlation"  # the figure that most readers look for


@dataclass(frozen=True)
class Figure:
    """A figure of a report: its <svg>, and its caption as plain text."""

    svg: str
    caption: str

    def renamed(self, prefix: str) -> str:
        """The <svg> with its ids, and what refers to them, kept apart from those of other figures."""
        return _NAME.sub(rf"\g<1>{prefix}-", self.svg)


def headlines_in(page: str) -> list[tuple[str, str, str]]:
    """Label, value and note of each headline."""
    return [(unescape(label), unescape(value), unescape(note)) for label, value, note in _HEADLINE.findall(page)]


def figures_in(page: str) -> list[Figure]:
    """All figures, in their order."""
    return [Figure(svg, unescape(caption).strip()) for svg, caption in _FIGURE.findall(page)]


def key_figures(page: str, most: int, most_bytes: int) -> tuple[list[Figure], int]:
    """The first few figures, the curves of an FSC before others, none of which makes the page much larger; and how many were left out."""
    figures = figures_in(page)
    wanted = sorted(figures, key=lambda figure: not figure.caption.startswith(FIRST))
    kept: list[Figure] = []
    for figure in wanted:
        if len(kept) < most and len(figure.svg) <= most_bytes - sum(len(other.svg) for other in kept):
            kept.append(figure)
    return kept, len(figures) - len(kept)
