"""The network classes that a network file may name.

The classes register themselves with :func:`storable`; this package knows none of them. Modules given to
:func:`provide_by` are imported at the first look-up, so that whoever opens a file need not import the
classes.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from torch_utils.pickles.arguments import Arguments

C = TypeVar("C", bound=type[nn.Module])


@dataclass(frozen=True)
class Storable:
    """A network class that files may name.

    Attributes:
        cls: the class. Its objects have ``init_kwargs``, the arguments of their constructor.
        slots: the keys of a file under which its objects stand, such as ``G``.
        arguments: what its constructor takes, in its order; None if the constructor checks its arguments
            itself and allocates nothing that depends on them.
    """

    cls: type[nn.Module]
    slots: tuple[str, ...]
    arguments: Arguments | None

    @property
    def name(self) -> str:
        """The name of the class in files."""
        return self.cls.__name__


_storables: dict[str, Storable] = {}
_modules: list[str] = []


def storable(*slots: str, arguments: Arguments | None = None) -> Callable[[C], C]:
    """Class decorator: files may name this class. For the arguments see :class:`Storable`."""

    def register(cls: C) -> C:
        _storables[cls.__name__] = Storable(cls, slots, arguments)
        return cls

    return register


def provide_by(*modules: str) -> None:
    """Import these modules, which register classes, at the next look-up."""
    _modules.extend(modules)


def known() -> dict[str, Storable]:
    """The registered classes by name."""
    while _modules:
        importlib.import_module(_modules[0])
        del _modules[0]
    return dict(sorted(_storables.items()))


def find(class_name: str) -> Storable:
    """The class of this name. Raises :class:`ValueError` if none is registered."""
    classes = known()
    if class_name not in classes:
        raise ValueError(f"a network of class {class_name!r:.100}; known are {', '.join(classes)}")
    return classes[class_name]
