"""A network as data, and the module made from it.

A file may claim any constructor argument. So the arguments are checked
(:mod:`torch_utils.pickles.arguments`), and the constructor may not make more elements than the file's tensors
have: arguments that ask for a larger network are refused before memory is taken.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torch_utils.pickles import registry
from torch_utils.pickles.arguments import check_arguments
from torch_utils.pickles.values import StoredTensor


@dataclass(frozen=True)
class NetworkRecord:
    """A network.

    Attributes:
        class_name: of a registered class.
        init_kwargs: arguments of its constructor, of plain types.
        tensors: its state dictionary.
    """

    class_name: str
    init_kwargs: dict[str, Any]
    tensors: dict[str, StoredTensor]

    def build(self, limit: int, slot: str) -> nn.Module:
        """The module, in evaluation mode on the CPU, without gradients. Draws no random numbers.

        Args:
            limit: bytes that its tensors may take together: the size of the file.
            slot: the key under which it stands in the file.

        Raises:
            ValueError: the class is unknown or belongs in another slot, or the arguments do not fit the class
                or the tensors.
        """
        storable = registry.find(self.class_name)
        if slot not in storable.slots:
            expected_class = next(
                (other.name for other in registry.known().values() if slot in other.slots), "network"
            )
            raise ValueError(f"a {self.class_name} stands where the file's {expected_class} belongs")
        if storable.arguments is not None:
            check_arguments(self.init_kwargs, storable.arguments, self.class_name)
        for name, tensor in self.tensors.items():
            if tensor.dtype.kind != "f":
                raise ValueError(
                    f"'{name}' of {self.class_name} is of type {tensor.dtype}, not floating-point"
                )
        if sum(tensor.nbytes for tensor in self.tensors.values()) > limit:
            raise ValueError(f"the tensors of {self.class_name} share their elements")
        elements = sum(math.prod(tensor.shape) for tensor in self.tensors.values())
        try:
            with _WithoutInitialWeights(elements):
                module = storable.cls(**self.init_kwargs)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{self.class_name} cannot be built from its arguments: {error}") from error
        expected = module.state_dict()
        self._compare(expected)
        state = {name: self.tensors[name].read(like) for name, like in expected.items()}
        module.load_state_dict(state, strict=True, assign=True)
        return module.eval().requires_grad_(requires_grad=False)

    def _compare(self, expected: Mapping[str, torch.Tensor]) -> None:
        missing = [name for name in expected if name not in self.tensors]
        unknown = [name for name in self.tensors if name not in expected]
        if missing or unknown:
            wrong = f"lacks {_few(missing)}" if missing else f"has the unexpected {_few(unknown)}"
            raise ValueError(f"the state of {self.class_name} {wrong}")
        for name, tensor in self.tensors.items():
            if tensor.shape != tuple(expected[name].shape):
                raise ValueError(
                    f"'{name}' of {self.class_name} has shape {tensor.shape}, its constructor arguments give "
                    f"{tuple(expected[name].shape)}"
                )


class _WithoutInitialWeights(TorchFunctionMode):
    """Gives constructors uninitialised memory in place of random weights, ``allowance`` elements at most."""

    FACTORIES = (torch.empty, torch.full, torch.ones, torch.randn, torch.zeros)

    def __init__(self, allowance: int) -> None:
        super().__init__()
        self.allowance = allowance

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FACTORIES:
            shape = args if args and isinstance(args[0], int) else args[0]
            self.allowance -= math.prod(shape)
            if self.allowance < 0:
                raise ValueError("they are those of a larger network than the file holds")
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def _few(names: list[str]) -> str:
    return ", ".join(f"'{name:.100}'" for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
