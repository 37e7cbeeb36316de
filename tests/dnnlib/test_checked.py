"""dnnlib.checked: types at construction, messages, and JSON round trips.

tests/training/config/test_schema.py checks whole configurations.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NotRequired, TypedDict

import pytest

from dnnlib.checked import Checked, Count, FileName, Real, between, check, form, shown
from dnnlib.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Wheel(Checked):
    radius: float
    spokes: int | tuple[int, ...] = 32
    _part: ClassVar[str] = "wheel"
    _options: ClassVar[Mapping[str, str]] = {"wheel.radius": "--radius"}

    def _validate(self) -> None:
        self._above_zero("radius")


@dataclass(frozen=True, kw_only=True)
class Bicycle(Checked):
    wheel: Wheel
    colour: Literal["red", "blue"] = "red"
    bell: bool = False
    owners: tuple[str, ...] = ()
    spare: Wheel | None = None
    _part: ClassVar[str] = "bicycle"


@pytest.mark.parametrize(
    "bicycle",
    [
        Bicycle(wheel=Wheel(radius=0.3)),
        Bicycle(
            wheel=Wheel(radius=1, spokes=(28, 32)),
            colour="blue",
            bell=True,
            owners=("a", "b"),
            spare=Wheel(radius=2),
        ),
    ],
)
def test_json_there_and_back(bicycle: Bicycle) -> None:
    assert Bicycle.from_dict(json.loads(json.dumps(bicycle.to_dict()))) == bicycle


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wheel": {"radius": "0.3"}}, r"^--radius \(wheel.radius\) must be a finite number, not '0.3'$"),
        ({"wheel": {"radius": float("inf")}}, "must be a finite number, not inf"),
        ({"wheel": {"radius": True}}, "must be a finite number, not True"),
        ({"wheel": {"radius": 0}}, r"^--radius \(wheel.radius\) must be greater than 0, not 0$"),
        (
            {"wheel": {"radius": 1, "spokes": 1.5}},
            "^wheel.spokes must be a whole number or a list of whole numbers, not 1.5$",
        ),
        ({"wheel": {"radius": 1, "spokes": [1, "2"]}}, r"wheel.spokes must be .*, not \(1, '2'\)"),
        ({"wheel": {}}, "^the section 'wheel' of the configuration lacks radius$"),
        ({"wheel": {"radius": 1, "size": 2}}, r"'wheel' .* has unknown keys \(size\); remove them"),
        ({"wheel": None}, "^bicycle.wheel must be a section of its own, not None$"),
        ({"colour": "green"}, "^bicycle.colour must be one of red blue, not 'green'$"),
        ({"bell": 1}, "^bicycle.bell must be true or false, not 1$"),
        ({"owners": "me"}, "^bicycle.owners must be a list of strings, not 'me'$"),
        ({"spare": 3}, "^the section 'wheel' of the configuration must be a dictionary, not 3$"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Bicycle.from_dict({"wheel": {"radius": 1}, **changes})


class Crate(TypedDict):
    name: FileName
    weight: Annotated[float, between(0, 10)]
    marks: NotRequired[list[Count]]
    values: NotRequired[dict[Annotated[str, form("[a-z]+", "a word")], Real]]


@pytest.mark.parametrize(
    "crate",
    [
        {"name": "a b.png", "weight": 1},
        {
            "name": "é.zip",
            "weight": 10.0,
            "marks": [0, 2**63 - 1],
            "values": {"a": math.nan, "b": -math.inf, "c": 1},
            "more": object(),
        },
    ],
)
def test_values_that_are_as_annotated_pass_unchanged(crate: dict[str, Any]) -> None:
    found: Crate = check(crate, Crate, "crate")
    assert found is crate


@pytest.mark.parametrize(
    ("crate", "message"),
    [
        ([], r"^crate must be a dictionary, not \[\]$"),
        ({"weight": 1}, "^crate lacks name$"),
        ({"name": "../a", "weight": 1}, "^crate.name must be the plain name of a file, not '../a'$"),
        ({"name": "/a", "weight": 1}, "plain name"),
        ({"name": "..", "weight": 1}, "plain name"),
        ({"name": ".hidden", "weight": 1}, "plain name"),
        ({"name": "a\nb", "weight": 1}, r"plain name of a file, not 'a\\nb'$"),
        ({"name": "a\0", "weight": 1}, "plain name"),
        ({"name": "\ud800", "weight": 1}, "plain name"),
        ({"name": "", "weight": 1}, "plain name"),
        ({"name": 5, "weight": 1}, "^crate.name must be a string, not 5$"),
        ({"name": "a", "weight": 11}, "^crate.weight must be a number from 0 to 10, not 11$"),
        ({"name": "a", "weight": -0.1}, "a number from 0 to 10"),
        ({"name": "a", "weight": math.nan}, "a finite number, not nan"),
        ({"name": "a", "weight": 10**400}, "a finite number, not 1000"),
        ({"name": "a", "weight": 10**5000}, "a finite number, not a value of type int that cannot be shown"),
        ({"name": "a", "weight": True}, "a finite number, not True"),
        (
            {"name": "a", "weight": 1, "marks": [1, -1]},
            r"^crate.marks\[1\] must be a whole number from 0, not -1$",
        ),
        ({"name": "a", "weight": 1, "marks": [2**63]}, r"marks\[0\] must be a whole number"),
        ({"name": "a", "weight": 1, "marks": (1,)}, "^crate.marks must be a list, not"),
        ({"name": "a", "weight": 1, "values": {"A": 1}}, "the key 'A' must be a word, not 'A'$"),
        ({"name": "a", "weight": 1, "values": {5: 1}}, "the key 5 must be a string, not 5$"),
        ({"name": "a", "weight": 1, "values": {"a": "1"}}, "^crate.values.a must be a number, not '1'$"),
    ],
)
def test_a_value_from_outside_is_refused_by_its_innermost_name(crate: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(crate, Crate, "crate")


def test_what_is_shown_is_short_and_printable() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert shown("\x1b[2J" + "a" * 500) == repr("\x1b[2J" + "a" * 500)[:80] + "..."
    assert "cannot be shown" in shown(Odd())


def test_numbers_that_overflow_are_refused_in_a_configuration() -> None:
    with pytest.raises(UserError, match=r"wheel\.radius"):
        Wheel.from_dict({"radius": 10**400})
