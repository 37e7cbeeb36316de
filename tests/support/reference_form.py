"""Pickles of this project's networks in the reference's form: persistent objects with their classes' text.

The text ends a program that executes it.
"""

import pickle
from typing import Any

from torch import nn

from torch_utils import persistence

TRAP = "raise SystemExit('the source text inside a network pickle was executed')\n"
PLAIN = (bool, int, float, str, list, tuple, type(None))


class ReferenceObject:
    """Pickles as the reference's objects do."""

    def __init__(self, class_name: str, state: dict[str, Any], **meta: Any) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": TRAP,
            "class_name": class_name,
            "state": state,
            **meta,
        }

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.meta["state"]
        return state

    def child(self, path: str) -> "ReferenceObject":
        """The module of this dotted name below this one."""
        found = self
        for name in path.split("."):
            found = found.state["_modules"][name]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return persistence._reconstruct_persistent_obj, (self.meta,)


def as_reference(
    module: nn.Module,
    *,
    class_name: str | None = None,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> ReferenceObject:
    """A module with its parts; constructor arguments are its own unless given."""
    state: dict[str, Any] = {
        key: value for key, value in vars(module).items() if type(value) in PLAIN and not key.startswith("_")
    }
    state.update({key: dict(vars(module)[key]) for key in ("_parameters", "_buffers")})
    state["_non_persistent_buffers_set"] = set()
    state["_modules"] = {name: as_reference(child) for name, child in module.named_children()}
    state.pop("init_kwargs", None)
    state.update(
        _init_args=args, _init_kwargs=getattr(module, "init_kwargs", {}) if kwargs is None else kwargs
    )
    return ReferenceObject(class_name or type(module).__name__, state)


def reference_pickle(protocol: int = 4, **data: Any) -> bytes:
    """The bytes of a network pickle of the reference; modules among ``data`` are converted."""
    names = {
        name: as_reference(value) if isinstance(value, nn.Module) else value for name, value in data.items()
    }
    return pickle.dumps({"training_set_kwargs": None, "augment_pipe": None, **names}, protocol=protocol)
