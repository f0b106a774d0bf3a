"""Chains and settings in YAML, damaged or ill meant: read or refused in one message, in bounded time and memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import ODD_WORDS, bounded, check, damaged
from protomer.catalogue import declaration
from protomer.config.chain import read_chain
from protomer.config.job_command import interpret
from stack_files import plain_rows, star_text

BESIDE = {"particles.star": star_text(plain_rows(4)).encode()}
CHAIN = b"""dataset: {star: particles.star, resources: {ranks: 1, minutes: 10}}
jobs:
  start: &start {job: simulate, number: 20, box: 64px, pixel_size: "3.5 \xc3\x85"}
  consensus: {job: refine, particles: dataset, volume: start/map.mrc, symmetry: C1, settings: {initial_low_pass: 40A, marginalise: yes}}
  sharp: {job: postprocess, volume: consensus}
"""
CONFIG = b"job: refine\nparticles: p.h5\nvolume: v.mrc\nsettings:\n  initial_low_pass: 40 A\n  seed: 3\n  mask_mode: none\n"


def read_config(path: Path) -> None:
    interpret(declaration("refine"), {"config": str(path)})


YAML_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 2**70), st.floats(), ODD_WORDS, st.dates(), st.binary(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ODD_WORDS, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def chains(draw: st.DrawFn) -> bytes:
    """A chain with one value exchanged for an odd one or taken away."""
    document: Any = yaml.safe_load(CHAIN)
    for _ in range(draw(st.integers(1, 2))):
        place: Any = document
        while True:
            key = draw(st.sampled_from(sorted(map(str, place))))
            key = key if key in place else next(iter(place))
            if not isinstance(place[key], Mapping) or not place[key] or draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        if draw(st.integers(0, 3)):
            place[key] = draw(YAML_VALUES)
        else:
            place[draw(ODD_WORDS)] = place.pop(key)
        if not document:
            break
    return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")


BOMB = (
    b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 10)) for c in range(ord("b"), ord("m")))
    + b"jobs: *l\n"
)
NESTED = st.sampled_from((1, 30, 60, 400, 5000)).map(lambda n: b"jobs: " + b"[" * n)
TAGS = st.sampled_from(
    (
        b"!!python/object/apply:os.system ['true']",
        b"!!python/name:os.system",
        b"!!binary '=='",
        b"!!timestamp '2001-99-99'",
        b"!!set {a, b}",
        b"!!omap [a: 1]",
        b"!!float x",
        b"!!int '0b'",
        b"2001-02-30",
        b"!!int '" + b"9" * 5000 + b"'",
        b"<<: 3",
        b"0x" + b"f" * 5000,
        b"&a [*a]",
        b"&a {b: *a}",
        b"{? [a] : b}",
        b"{? {a: b} : c}",
        b"!<tag:yaml.org,2002:python/object:os.x> {}",
    )
)


@bounded(220)
@given(
    data=st.one_of(
        chains(),
        damaged(CHAIN),
        NESTED,
        TAGS.map(lambda tag: b"jobs: {a: {job: refine, seed: " + tag + b"}}"),
        TAGS.map(b"jobs: ".__add__),
        st.binary(max_size=60),
    )
)
@example(data=BOMB)
@example(data=b"".join(b"k%d: 1\n" % i for i in range(20_000)))
def test_a_damaged_chain_is_read_or_refused(data: bytes) -> None:
    check("chain.yaml", data, read_chain, beside=BESIDE)


@bounded(150)
@given(
    data=st.one_of(
        damaged(CONFIG),
        NESTED,
        TAGS.map(b"seed: ".__add__),
        YAML_VALUES.map(lambda value: json.dumps({"seed": value}, default=str).encode()),
        st.binary(max_size=60),
    )
)
@example(data=BOMB)
def test_a_damaged_settings_file_is_read_or_refused(data: bytes) -> None:
    check("settings.yaml", data, read_config)


def test_the_sound_files_are_read() -> None:
    assert check("chain.yaml", CHAIN, read_chain, beside=BESIDE) == 1
    assert check("settings.yaml", CONFIG, read_config) == 1
