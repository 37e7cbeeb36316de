"""Builds a StyleGAN2 network of the program that opens this file, from its constructor arguments and weights.

This text travels in every network pickle of stylegan2-ada-ggdr. Programs with `torch_utils.persistence` of
stylegan2-ada-pytorch, GGDR or stylegan3 run it when they open one; stylegan2-ada-ggdr itself never does.
It imports nothing of stylegan2-ada-ggdr, and Python 3.6 and PyTorch 1.7 are enough for it.
"""

import importlib
import importlib.util
import inspect

import numpy
import torch

MODULES = {
    "Generator": ("training.networks", "training.networks_stylegan2"),
    "Discriminator": ("training.networks", "training.networks_stylegan2"),
    "AugmentPipe": ("training.augment",),
}


def find_class(name: str) -> type:
    """The program's own class."""
    for module in MODULES[name]:
        if importlib.util.find_spec(module) is not None:
            return getattr(importlib.import_module(module), name)
    raise ImportError("this program has none of the modules " + ", ".join(MODULES[name]))


def takes(cls: type, argument: str) -> bool:
    """Whether a constructor has an argument of this name. The programs' decorators hide theirs behind `*args,
    **kwargs`."""
    for base in cls.__mro__:
        parameters = inspect.signature(vars(base).get("__init__", object)).parameters.values()
        names = [
            p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"
        ]
        if names:
            return argument in names
    return False


class Portable:
    """Becomes an object of the program's own class when it receives its state."""

    def __setstate__(self, state: dict) -> None:
        cls = find_class(state["class_name"])
        kwargs, tensors = dict(state["init_kwargs"]), dict(state["tensors"])
        if not takes(cls, "synthesis_kwargs"):  # stylegan3 takes them beside the generator's own arguments
            kwargs.update(kwargs.pop("synthesis_kwargs", {}))
        unknown = [
            name for name in ("decoder_res", "decoder_kwargs") if name in kwargs and not takes(cls, name)
        ]
        if unknown:  # a program without GGDR, or with another decoder: it gets none
            kwargs.pop("decoder_res", None)
            kwargs.pop("decoder_kwargs", None)
            tensors = {name: tensor for name, tensor in tensors.items() if "_dec." not in name}
        network = cls(**kwargs)
        network.load_state_dict({name: self.tensor(**tensor) for name, tensor in tensors.items()})
        self.__dict__.update(vars(network.eval().requires_grad_(False)))
        self.__class__ = type(network)

    @staticmethod
    def tensor(data: bytes, dtype: str, shape: list) -> torch.Tensor:
        """The elements row by row, in bytes of the given numpy type."""
        return torch.from_numpy(numpy.frombuffer(data, dtype=dtype).reshape(shape).copy())


class Generator(Portable):
    pass


class Discriminator(Portable):
    pass


class AugmentPipe(Portable):
    pass
