"""Renderers draw pictures from latents. Generators and exported networks share one interface.

PyTorch chooses kernels by the shape of their input, and kernels round differently. So the last bits of a
picture would depend on the size of its batch. Renderers therefore call a network with a fixed number of
samples (:data:`CALL_SIZE`), padded where fewer are left: a picture depends on its own inputs alone.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

import torch

from dnnlib.errors import UserError
from torch_utils.seeding import derive_seed
from training.networks.generator import Generator, SynthesisLayer, SynthesisNetwork

#: Samples a call, by device. On a CPU one is as fast as several, and is what the reference does.
CALL_SIZE = {"cpu": 1, "cuda": 8}

#: Noise of a batch: a map ``[N, 1, R, R]`` for each noise input, the stored maps (const), or none.
Noise = Sequence[torch.Tensor] | Literal["const", "none"]


class Renderer(Protocol):
    """A network that draws pictures from latents."""

    @property
    def z_dim(self) -> int:
        """Dimension of latents."""
        ...

    @property
    def c_dim(self) -> int:
        """Dimension of labels; 0 for an unconditional network."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        ...

    @property
    def noise_resolutions(self) -> Sequence[int]:
        """Resolution R of each noise input, in the order in which the network reads them."""
        ...

    def check(self, truncation_psi: float, noise_mode: str) -> None:
        """Raise :class:`UserError` where the network lacks this truncation or noise mode."""
        ...

    def images(self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float, noise: Noise) -> torch.Tensor:
        """Draw ``z [N, z_dim]`` with ``c [N, c_dim]``.

        Returns:
            float32 ``[N, C, H, W]``, about [-1, 1], on :attr:`device`.
        """
        ...


class GeneratorRenderer:
    """A :class:`Generator` as a :class:`Renderer`, on ``device``, in evaluation mode."""

    def __init__(self, G: Generator, device: torch.device | str = "cpu") -> None:
        self.G = G.to(device).eval().requires_grad_(requires_grad=False)
        self.device = torch.device(device)
        self.z_dim, self.c_dim = G.z_dim, G.c_dim
        self.noise_resolutions = [layer.resolution for layer in noise_layers(G.synthesis).values()]

    def check(self, truncation_psi: float, noise_mode: str) -> None:
        """Raise :class:`UserError` for truncation of a network that tracks no average of w."""
        if truncation_psi != 1 and self.G.mapping.w_avg_beta is None:
            raise UserError(
                "this network tracks no average of w, so truncation means nothing; leave --trunc at 1"
            )

    def ws(self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float) -> torch.Tensor:
        """``z [N, z_dim]`` and ``c [N, c_dim]`` to ``[N, num_ws, w_dim]``."""
        return in_fixed_calls(
            lambda z, c: self.G.mapping(z, c, truncation_psi=truncation_psi), (z, c), self.device
        )

    def images(self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float, noise: Noise) -> torch.Tensor:
        """See :meth:`Renderer.images`."""
        return self.images_from_ws(self.ws(z, c, truncation_psi), noise)

    def images_from_ws(self, ws: torch.Tensor, noise: Noise) -> torch.Tensor:
        """``ws [N, num_ws, w_dim]`` to float32 ``[N, C, H, W]``."""
        maps = () if isinstance(noise, str) else tuple(noise)

        def call(ws: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
            return synthesize(self.G.synthesis, ws, noise if isinstance(noise, str) else maps)

        return in_fixed_calls(call, (ws, *maps), self.device)


def noise_layers(synthesis: SynthesisNetwork) -> dict[str, SynthesisLayer]:
    """The layers that add noise by name, in the order in which they run."""
    return {
        name: layer
        for name, layer in synthesis.named_modules()
        if isinstance(layer, SynthesisLayer) and layer.use_noise
    }


def synthesize(
    synthesis: SynthesisNetwork, ws: torch.Tensor, noise: Noise, *, force_fp32: bool = False
) -> torch.Tensor:
    """Images of ``ws [N, num_ws, w_dim]`` with the given noise.

    Maps broadcast to ``[N, 1, R, R]``. They replace the stored buffers during the call, so gradients reach
    them, and the network is not changed.
    """
    mode, maps = (noise, ()) if isinstance(noise, str) else ("const", noise)
    layers = noise_layers(synthesis) if maps else ()
    buffers = {f"{name}.noise_const": values for name, values in zip(layers, maps, strict=True)}
    return cast(
        torch.Tensor,
        torch.func.functional_call(synthesis, buffers, (ws,), dict(noise_mode=mode, force_fp32=force_fp32)),
    )


def noise_from_seeds(seeds: Sequence[int], resolutions: Sequence[int]) -> list[torch.Tensor]:
    """Random noise of pictures: N(0, 1), ``[N, 1, R, R]`` for each R, drawn on the CPU seed by seed."""
    generators = [torch.Generator().manual_seed(derive_seed(seed, "noise")) for seed in seeds]
    return [
        torch.cat([torch.randn([1, 1, res, res], generator=generator) for generator in generators])
        for res in resolutions
    ]


def in_fixed_calls(
    function: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    device: torch.device,
    call_size: int | None = None,
) -> torch.Tensor:
    """Call ``function`` on ``inputs`` (each ``[N, …]``) with ``call_size`` samples at a time.

    The last call is padded with copies of its last sample. ``call_size`` None takes :data:`CALL_SIZE` of the
    device.
    """
    size = CALL_SIZE[device.type] if call_size is None else call_size
    results = []
    for start in range(0, len(inputs[0]), size):
        parts = [values[start : start + size].to(device) for values in inputs]
        count = len(parts[0])
        padded = [
            torch.cat([part, part[-1:].expand(size - count, *part.shape[1:])]) if count < size else part
            for part in parts
        ]
        results.append(function(*padded)[:count])
    return torch.cat(results)


def one_hot_label(c_dim: int, class_idx: int | None) -> torch.Tensor:
    """The label ``[1, c_dim]`` of a class.

    Raises:
        UserError: a conditional network without a class, an unconditional one with a class, or a class out
            of range.
    """
    if c_dim == 0:
        if class_idx is not None:
            raise UserError("--class is given, but this network is unconditional; leave it out")
        return torch.zeros([1, 0])
    if class_idx is None:
        raise UserError(f"this network is conditional; choose a class with --class (0 to {c_dim - 1})")
    if not 0 <= class_idx < c_dim:
        raise UserError(f"--class={class_idx} does not exist; this network has classes 0 to {c_dim - 1}")
    return torch.nn.functional.one_hot(torch.tensor([class_idx]), c_dim).float()
