"""A network as data, and the module made from it.

A file may claim any constructor argument, so these are checked by name, type and range, and the constructor
may not make more elements than the file's tensors have: arguments that ask for a larger network are refused
before memory is taken.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torch_utils.ops.bias_act import ACTIVATIONS
from torch_utils.pickles.values import StoredTensor

#: Classes that a network file may name, and where they live. Each has ``init_kwargs``, its constructor
#: arguments.
CLASSES = {
    "Generator": "training.networks",
    "Discriminator": "training.networks",
    "AugmentPipe": "training.augment",
}
#: Places of networks in a file, and their classes.
SLOTS = {"G": "Generator", "D": "Discriminator", "G_ema": "Generator", "augment_pipe": "AugmentPipe"}
MAX_WIDTH = 1 << 20  # of anything that is counted in channels or features
MAX_LAYERS = 64  # of a mapping network
MAX_TAPS = 64

Check = Callable[[Any], bool]
#: What an argument may be: a test, or the arguments of a part that has its own.
Arguments = Mapping[str, "Check | Arguments"]


@dataclass(frozen=True)
class NetworkRecord:
    """A network.

    Attributes:
        class_name: a key of :data:`CLASSES`.
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
            slot: where it stands in the file, a key of :data:`SLOTS`.

        Raises:
            ValueError: the arguments are none of the class, or do not fit the tensors.
        """
        if self.class_name not in CLASSES:
            raise ValueError(f"a network of class {self.class_name!r:.100}; known are {', '.join(CLASSES)}")
        if self.class_name != SLOTS[slot]:
            raise ValueError(f"a {self.class_name} stands where the file's {SLOTS[slot]} belongs")
        if self.class_name in ARGUMENTS:
            check_arguments(self.init_kwargs, ARGUMENTS[self.class_name], self.class_name)
        cls = getattr(importlib.import_module(CLASSES[self.class_name]), self.class_name)
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
                module = cls(**self.init_kwargs)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{self.class_name} cannot be built from its arguments: {error}") from error
        expected = module.state_dict()
        self._compare(expected)
        state = {name: self.tensors[name].read(like) for name, like in expected.items()}
        module.load_state_dict(state, strict=True, assign=True)
        return module.eval().requires_grad_(False)

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
    """Constructors get uninitialised memory in place of random weights, and no more elements than
    ``allowance`` in all."""

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


def check_arguments(values: Mapping[str, Any], allowed: Arguments, owner: str) -> None:
    """Raises :class:`ValueError` that names the first argument that ``allowed`` lacks, or whose value it does
    not allow."""
    for name, value in values.items():
        if name not in allowed:
            raise ValueError(f"{owner} has no argument {name!r:.100}; known are {', '.join(allowed)}")
        check = allowed[name]
        if isinstance(check, Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"argument '{name}' of {owner} is no dictionary")
            check_arguments(value, check, f"{owner} ({name})")
        elif not check(value):
            raise ValueError(f"argument '{name}' of {owner} is {value!r:.100}, which it cannot be")


def _integer(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= 1e9


def _at_least_zero(value: Any) -> bool:
    return _number(value) and value >= 0


def _kernel_size(value: Any) -> bool:
    """Odd: with an even one, padding shifts a feature map and changes its size."""
    return type(value) is int and 1 <= value <= MAX_TAPS and value % 2 == 1


def _boolean(value: Any) -> bool:
    return type(value) is bool


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*values: str) -> Check:
    return lambda value: type(value) is str and value in values


def _taps(value: Any) -> bool:
    """One row of numbers, or several."""
    rows = (
        value if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple) else [value]
    )
    return len(rows) <= MAX_TAPS and all(
        isinstance(row, list | tuple) and 1 <= len(row) <= MAX_TAPS and all(map(_number, row)) for row in rows
    )


_WIDTH, _ACTIVATION, _ARCHITECTURE = (
    _integer(0, MAX_WIDTH),
    _one_of(*ACTIVATIONS),
    _one_of("orig", "skip", "resnet"),
)
_IMAGE: Arguments = {"img_resolution": _integer(1, MAX_WIDTH), "img_channels": _integer(1, MAX_WIDTH)}
_CAPACITY: Arguments = {
    "channel_base": _WIDTH,
    "channel_max": _WIDTH,
    "num_fp16_res": _integer(0, MAX_LAYERS),
    "conv_clamp": _optional(_at_least_zero),
    "architecture": _ARCHITECTURE,
}
_BLOCK: Arguments = {"activation": _ACTIVATION, "resample_filter": _taps, "fp16_channels_last": _boolean}
_MAPPING: Arguments = {
    "num_layers": _integer(0, MAX_LAYERS),
    "embed_features": _optional(_WIDTH),
    "layer_features": _optional(_WIDTH),
    "activation": _ACTIVATION,
    "lr_multiplier": _number,
    "w_avg_beta": _optional(_number),
}
SYNTHESIS_ARGUMENTS: Arguments = {**_CAPACITY, **_BLOCK, "kernel_size": _kernel_size, "use_noise": _boolean}

#: Arguments of the networks, which are those of the reference, in the constructors' order. (The augmentation
#: pipe checks its own, and allocates nothing that depends on them.)
ARGUMENTS: dict[str, Arguments] = {
    "Generator": {
        "z_dim": _WIDTH,
        "c_dim": _WIDTH,
        "w_dim": _WIDTH,
        **_IMAGE,
        "mapping_kwargs": _MAPPING,
        "synthesis_kwargs": SYNTHESIS_ARGUMENTS,
    },
    "Discriminator": {
        "c_dim": _WIDTH,
        **_IMAGE,
        "architecture": _ARCHITECTURE,
        **_CAPACITY,
        "cmap_dim": _optional(_WIDTH),
        "block_kwargs": {**_BLOCK, "freeze_layers": _integer(0, MAX_WIDTH)},
        "mapping_kwargs": _MAPPING,
        "epilogue_kwargs": {
            "mbstd_group_size": _optional(_integer(1, MAX_WIDTH)),
            "mbstd_num_channels": _WIDTH,
            "activation": _ACTIVATION,
        },
        "decoder_res": _optional(_integer(1, MAX_WIDTH)),
        "decoder_kwargs": {
            "kernel_size": _kernel_size,
            "activation": _ACTIVATION,
            "num_classes": _optional(_integer(1, MAX_WIDTH)),
        },
    },
}
