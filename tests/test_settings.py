"""Settings: units, switches, unknown names, bounds, and the documents made from the same fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest

from protomer.catalogue import JOB_NAMES, declaration
from protomer.config.schema import chain_schema, settings_table
from protomer.config.settings import Input, Job, JobSettings, setting
from protomer.errors import NotYetError, SettingsError


@dataclass(frozen=True)
class Example(JobSettings):
    resolution: float | None = setting(None, "a resolution", unit="A")
    rotation_prior: float = setting(15.0, "a prior", unit="deg", minimum=0, maximum=180)
    mask_mode: str = setting("dynamic", "which mask", choices=("dynamic", "static", "none"))
    relaxation: str = setting("off", "which relaxation", choices=("off", "on"))
    iterations: int = setting(5, "how many", minimum=1)
    marginalise: bool = setting(True, "a switch")
    fulcrum: str = setting("mask", "a place or x,y,z")
    ewald_sign: int = setting(0, "not in this version", later=True)


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("rotation_prior", "5deg", 5.0), ("rotation_prior", "5 °", 5.0), ("rotation-prior", 5, 5.0), ("rotation_prior", "5 degrees", 5.0),
    ("resolution", "30 Å", 30.0), ("resolution", "30A", 30.0), ("resolution", "3e1", 30.0), ("resolution", "30 angstrom", 30.0),
    ("resolution", "none", None), ("resolution", None, None), ("resolution", False, None), ("resolution", "off", None),
    ("iterations", "7", 7), ("iterations", 7.0, 7), ("marginalise", "off", False), ("marginalise", "Yes", True), ("marginalise", 0, False),
    ("mask_mode", "none", "none"), ("relaxation", False, "off"), ("relaxation", True, "on"), ("fulcrum", [1, 2.5, 3], "1,2.5,3")])
def test_a_value_is_read_as_people_write_it(name: str, value: Any, expected: Any) -> None:
    read = getattr(Example.from_mapping({name: value}), name.replace("-", "_"))
    assert read == expected and type(read) is type(expected)


@pytest.mark.parametrize(("name", "value", "words"), [
    ("rotation_prior", "5A", "unit 'A'"), ("rotation_prior", "5 5", "'5 5'"), ("rotation_prior", "nan", "nan"),
    ("rotation_prior", float("inf"), "inf"), ("rotation_prior", -1, "at least 0"), ("rotation_prior", 181, "at most 180"),
    ("rotation_prior", True, "a number in deg"), ("rotation_prior", [1], "a number"), ("iterations", 2.5, "a whole number"),
    ("iterations", "0", "at least 1"), ("marginalise", "maybe", "true or false"), ("mask_mode", "moving", "dynamic, static, none"),
    ("seed", -1, "at least 0"), ("fulcrum", {"x": 1}, "a word")])
def test_an_impossible_value_is_refused_with_what_was_expected(name: str, value: Any, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        Example.from_mapping({name: value})
    assert words in str(error.value) and name in str(error.value)


def test_an_unknown_setting_suggests_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="did you mean 'rotation_prior'"):
        Example.from_mapping({"rotation_piror": 3})


def test_a_later_setting_is_refused_except_at_its_default() -> None:
    assert Example.from_mapping({"ewald_sign": "0"}).ewald_sign == 0
    with pytest.raises(NotYetError, match="ewald_sign"):
        Example.from_mapping({"ewald_sign": 1})


def test_a_mapping_of_settings_gives_the_same_settings_back() -> None:
    settings = Example.from_mapping({"resolution": "8 A", "marginalise": "no", "seed": 9})
    assert Example.from_mapping(settings.to_mapping()) == settings
    assert list(settings.to_mapping())[-1] == "seed"


def test_a_job_whose_input_and_setting_share_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match="fulcrum"):
        Job(name="x", summary="", teaches="", inputs=(Input("fulcrum", ""),), settings=Example, entry="")


def test_the_settings_table_lists_every_setting_with_its_default_and_unit() -> None:
    table = settings_table(Job(name="x", summary="", teaches="", inputs=(), settings=Example, entry=""))
    assert "| rotation_prior | 15.0 | deg | a prior |" in table and "| marginalise | on |" in table
    assert len(table.splitlines()) == 2 + len(Example.fields())


@pytest.mark.parametrize("name", JOB_NAMES)
def test_every_declared_job_is_consistent(name: str) -> None:
    job = declaration(name)
    assert job.name == name and job.teaches and not job.summary.endswith(".")
    defaults = job.settings()
    assert job.settings.from_mapping(defaults.to_mapping()) == defaults


def test_the_schema_of_a_chain_accepts_the_documented_form_and_refuses_others() -> None:
    schema = chain_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"dataset": {"star": "p.star", "pixel_size": "1.31A"},
            "jobs": {"consensus": {"job": "refine", "particles": "dataset", "volume": "start.mrc", "symmetry": "C2",
                                   "settings": {"initial_low_pass": "30A"}}}}
    jsonschema.validate(good, schema)
    for bad in ({"jobs": {}}, {"jobs": {"a/b": {"job": "refine"}}}, {"jobs": {"a": {"job": "paint"}}}, {"jobs": {"a": {}}},
                {**good, "__use_yte__": True}, {"jobs": {"a": {"job": "refine", "particels": "x"}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
