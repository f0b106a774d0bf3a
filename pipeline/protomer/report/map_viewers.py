"""The maps of a job as viewers for a page: which files are shown together, in what colours, and what is on at first."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protomer.errors import InputError
from protomer.formats.mrc import read_header, read_volume
from protomer.report.build import filled
from protomer.report.surface_pictures import still_picture
from protomer.report.surfaces import Surface, level_by_rule, packed, surface_of

COLOURS = {"map": "#3b82c4", "map_sharpened": "#1fa07a", "half_a": "#e08a1e", "half_b": "#a06cc0", "mask": "#8a94a3"}
OTHERS = ("#67b7e1", "#d1495b", "#c9a227", "#5b8c5a")
MASK_OPACITY = 0.28
MOST_TRIANGLES, MOST_IN_ALL, FEWEST_TRIANGLES = 24_000, 600_000, 4_000
MOST_IN_ONE = 8  # surfaces of one viewer
NO_DENSITY = ("local_resolution", "cut_off")  # maps of resolution in Å: a surface of them shows nothing


@dataclass(frozen=True)
class Group:
    """Maps of one box that are shown together: a job's own, or those of one of its classes. files: by name, the one that is on first."""

    title: str
    files: Mapping[str, Path]
    left_out: tuple[str, ...] = ()


def groups_of(run: str, folder: Path, outputs: Iterable[str]) -> list[Group]:
    """The maps among a run's outputs, one group for each folder that holds some and each box."""
    found: dict[tuple[str, int, float], dict[str, Path]] = {}
    for name in outputs:
        path = folder / name
        if path.suffix == ".mrc" and path.stem not in NO_DENSITY and path.is_file():
            header = read_header(path)
            if len(set(header.shape)) == 1 and header.shape[0] > 1:
                key = (str(Path(name).parent), header.shape[0], round(header.voxel_size_A[0], 3))
                found.setdefault(key, {})[Path(name).stem] = path
    groups = []
    for (inner, _, _), files in found.items():
        order = sorted(files, key=_rank)
        title = run if inner == "." else f"{run}, {inner}"
        groups.append(Group(title, {name: files[name] for name in order[:MOST_IN_ONE]}, tuple(order[MOST_IN_ONE:])))
    return groups


def _rank(name: str) -> tuple[int, str]:
    """Maps first, then sharpened ones, halves, others, masks."""
    known = ("map", "map_sharpened", "half_a", "half_b")
    return (known.index(name) if name in known else 5 if "mask" in name else 4, name)


def triangles_each(groups: Sequence[Group]) -> int:
    """How many triangles a map may have, so that those of a page together stay few enough."""
    return max(FEWEST_TRIANGLES, min(MOST_TRIANGLES, MOST_IN_ALL // max(1, sum(len(group.files) for group in groups))))


def viewer_html(group: Group, most_triangles: int) -> str:
    """A viewer of a group's surfaces. Raises InputError where a map cannot be read."""
    surfaces = _surfaces(group, most_triangles)
    looks = [_look(name, number) for number, name in enumerate(surfaces)]
    reach_A = max(surface.reach_A for surface in surfaces.values())
    first = next(iter(surfaces))
    told = {"reach_A": round(reach_A, 3), "surfaces": [
        {"colour": colour, "opacity": opacity if len(surfaces) > 1 else 1.0, "triangles": len(surface.faces), "reach_A": surface.reach_A,
         "data": packed(surface)} for (colour, opacity), surface in zip(looks, surfaces.values(), strict=True)]}
    shown = [{"name": name.replace("_", " "), "colour": colour, "is_on": name == first}
             for name, (colour, _) in zip(surfaces, looks, strict=True)]
    still = still_picture(surfaces[first], looks[0][0], reach_A)
    return filled("viewer.html", title=group.title, still=base64.b64encode(still).decode("ascii"), surfaces=shown,
                  told=json.dumps(told).replace("</", "<\\/"), caption=_caption(group, surfaces))


def _surfaces(group: Group, most_triangles: int) -> dict[str, Surface]:
    levels: dict[str, float] = {}
    surfaces: dict[str, Surface] = {}
    for name, path in group.files.items():
        volume = read_volume(path)
        is_mask, is_half = "mask" in name, name.startswith("half_")
        levels[name] = 0.5 if is_mask else levels["map"] if is_half and "map" in levels else level_by_rule(volume)
        surfaces[name] = surface_of(volume, levels[name], most_triangles // 4 if is_mask else most_triangles // 2 if is_half
                                    else most_triangles)
    return surfaces


def _look(name: str, number: int) -> tuple[str, float]:
    """Colour and opacity of a surface."""
    colour = COLOURS.get(name, COLOURS["mask"] if "mask" in name else OTHERS[number % len(OTHERS)])
    return colour, MASK_OPACITY if "mask" in name else 1.0


def _caption(group: Group, surfaces: Mapping[str, Surface]) -> str:
    levels = "; ".join(f"{name.replace('_', ' ')} at grey {surface.level:.3g}" for name, surface in surfaces.items())
    empty = [name.replace("_", " ") for name, surface in surfaces.items() if not len(surface.faces)]
    coarse = {f"{surface.voxel_size_A:.2f}" for surface in surfaces.values()}
    told = [f"{group.title}: surfaces of {levels}, drawn from voxels of {', '.join(sorted(coarse))} Å. Pieces smaller than 2% of the "
            "largest are not drawn."]
    told += [f"No surface at that level: {', '.join(empty)}."] if empty else []
    told += [f"Not shown: {', '.join(group.left_out)}."] if group.left_out else []
    return " ".join(told)


def read_groups(run: str, folder: Path, outputs: Iterable[str]) -> tuple[list[Group], str]:
    """The groups of a run, and what was wrong with its maps where they could not be read."""
    try:
        return groups_of(run, folder, outputs), ""
    except InputError as error:
        return [], error.found
