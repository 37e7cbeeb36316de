"""dnnlib.checked: types at construction, messages, JSON there and back. Whole configurations: tests/training/test_config.py."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from dnnlib.checked import Checked
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
        Bicycle(wheel=Wheel(radius=1, spokes=(28, 32)), colour="blue", bell=True, owners=("a", "b"), spare=Wheel(radius=2)),
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
        ({"wheel": {"radius": 1, "spokes": 1.5}}, "^wheel.spokes must be a whole number or a list of whole numbers, not 1.5$"),
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
