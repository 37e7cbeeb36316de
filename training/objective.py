"""The losses of each training phase, and the seam for further loss terms.

A step consists of up to four phases. ``G_main`` and ``D_main`` run in every step, ``G_reg`` (path length) and
``D_reg`` (R1) every few steps ("lazy regularisation", Karras et al. 2020, section 3.1). Each phase
accumulates the gradients of one network only.

A :class:`Term` adds a loss to one pass of ``G_main`` or ``D_main``. GGDR and segmentation are terms;
docs/extending.md adds another one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from torch_utils.training_stats import StatsCollector
from training import loss
from training.augment import AugmentParams, AugmentPipe
from training.config.schema import LossConfig
from training.networks import Discriminator, Generator

#: The passes of D that a term can add to: ``G_main`` on generated images, ``D_main`` on generated, and on
#: real ones.
Pass = Literal["G_fake", "D_fake", "D_real"]


@dataclass(frozen=True)
class Microbatch:
    """The inputs of one phase for one microbatch.

    Attributes:
        real_images: ``[N, C, H, W]``, float32 in [-1, 1].
        real_labels: ``[N, c_dim]``.
        z: ``[N, z_dim]``.
        gen_labels: ``[N, c_dim]``.
        annotations: of the real images, uint8 ``[N, H, W]``; None where the data set has none.
    """

    real_images: torch.Tensor
    real_labels: torch.Tensor
    z: torch.Tensor
    gen_labels: torch.Tensor
    annotations: torch.Tensor | None = None


@dataclass(frozen=True)
class Augmentation:
    """How the images of one pass were augmented, for maps that move with them.

    Attributes:
        pipe, params: None where images are not augmented.
    """

    pipe: AugmentPipe | None = None
    params: AugmentParams | None = None

    def warp(self, maps: torch.Tensor) -> torch.Tensor:
        """Move feature maps ``[N, C, H, W]`` of the images, of any resolution, as the images were moved."""
        return maps if self.pipe is None or self.params is None else self.pipe.warp(maps, self.params)

    def warp_classes(self, classes: torch.Tensor, outside: int) -> torch.Tensor:
        """Move class maps ``[N, H, W]`` likewise. Pixels from beyond the border become ``outside``."""
        if self.pipe is None or self.params is None:
            return classes
        return self.pipe.warp_classes(classes, self.params, outside)


@dataclass(frozen=True)
class PassOutputs:
    """One pass of D, for the terms that belong to it.

    Attributes:
        batch: the inputs of the phase.
        images: ``[N, C, H, W]``, D's input: augmented.
        logits: ``[N, 1]``.
        augmentation: of the images.
        D: the discriminator.
        encoder_maps: D's features ``{resolution: [N, C, resolution, resolution]}``, from half the images'
            resolution down to 4.
        decoder_maps: of D's decoder, likewise; empty unless a term of the pass reads them.
        generator_maps: the captured ones of the generator, float32, likewise; empty for real images.
    """

    batch: Microbatch
    images: torch.Tensor
    logits: torch.Tensor
    augmentation: Augmentation
    D: Discriminator
    encoder_maps: Mapping[int, torch.Tensor] = field(default_factory=dict)
    decoder_maps: Mapping[int, torch.Tensor] = field(default_factory=dict)
    generator_maps: Mapping[int, torch.Tensor] = field(default_factory=dict)


class Term(ABC):
    """A further loss term of one pass.

    Attributes:
        name: its key in ``stats.jsonl``.
        where: the pass that it belongs to. In ``D_fake`` the generator's maps carry no gradient.
        captures: resolutions of the generator's maps that it reads.
        reads_decoder: whether it reads the maps of D's decoder.
    """

    name: ClassVar[str]
    where: ClassVar[Pass]
    reads_decoder: ClassVar[bool] = False
    captures: tuple[int, ...] = ()

    def active(self, images_seen: int) -> bool:
        """Whether it applies after ``images_seen`` images."""
        return True

    @abstractmethod
    def __call__(self, outputs: PassOutputs) -> torch.Tensor:
        """One value a sample, ``[N]``, its weight included."""


#: The statistics of each phase's loss, without those of terms.
PHASE_LOSSES = {
    "G_main": ("Loss/G/loss",),
    "G_reg": ("Loss/G/reg",),
    "D_main": ("Loss/D/loss",),
    "D_reg": ("Loss/D/reg",),
}


class Objective:
    """The GAN objective: computes the loss of a phase for one batch and accumulates its gradients.

    Args:
        G, D: the networks.
        pipe: augmentation of D's input, or None.
        stats: where losses and scores are reported.
        weights: of the regularisers.
        terms: further loss terms.
        observe_real: called with D's logits of augmented real images, for ADA.
    """

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        pipe: AugmentPipe | None,
        stats: StatsCollector,
        weights: LossConfig,
        *,
        terms: Sequence[Term] = (),
        observe_real: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        self.G = G
        self.D = D
        self.pipe = pipe
        self.stats = stats
        self.weights = weights
        self.terms = tuple(terms)
        self.observe_real = observe_real
        self.pl_mean = torch.zeros([], device=next(G.parameters()).device)

    @property
    def phases(self) -> dict[str, Callable[[Microbatch, float, int], None]]:
        """The phases that are on, in the order in which they run: ``phase(batch, gain, images_seen)``.

        ``gain`` multiplies the loss before its gradients are accumulated. ``images_seen`` is the run's
        progress.
        """
        phases = {
            "G_main": self.g_main,
            "G_reg": self.g_path_length,
            "D_main": self.d_main,
            "D_reg": self.d_r1,
        }
        idle = {"G_reg": self.weights.pl_weight == 0, "D_reg": self.weights.r1_gamma == 0}
        return {name: phase for name, phase in phases.items() if not idle.get(name, False)}

    @property
    def losses(self) -> dict[str, tuple[str, ...]]:
        """The statistics of each phase's losses, those of its terms included."""
        names: dict[str, tuple[str, ...]] = {phase: PHASE_LOSSES[phase] for phase in self.phases}
        for term in self.terms:
            phase = "G_main" if term.where == "G_fake" else "D_main"
            names[phase] = (*names[phase], term.name)
        return names

    @property
    def main_losses(self) -> list[str]:
        """The losses of the phases that run in every step, for the progress bar."""
        return [*self.losses["G_main"], *self.losses["D_main"]]

    @property
    def running_means(self) -> list[torch.Tensor]:
        """What phases change in place: the mean path length, and the mapping network's mean of w."""
        return [self.pl_mean, self.G.mapping.w_avg]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The running mean of path lengths. The networks are saved apart."""
        return {"pl_mean": self.pl_mean.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.pl_mean.copy_(state["pl_mean"])

    def generate(self, z: torch.Tensor, c: torch.Tensor, **synthesis_kwargs: Any) -> tuple[Any, torch.Tensor]:
        """``(G.synthesis's result, ws)`` with style mixing (Karras et al. 2019, section 3.1)."""
        ws = self.G.mapping(z, c, update_emas=True)
        if self.weights.style_mixing_prob > 0:
            num_ws = ws.shape[1]
            cutoff = torch.randint(1, num_ws, [], device=ws.device)
            mixed = torch.rand([], device=ws.device) < self.weights.style_mixing_prob
            second = self.G.mapping(torch.randn_like(z), c)
            from_second = (torch.arange(num_ws, device=ws.device) >= cutoff) & mixed
            ws = torch.where(from_second[None, :, None], second, ws)
        return self.G.synthesis(ws, **synthesis_kwargs), ws

    def discriminate(self, images: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """D's logits ``[N, 1]`` of the augmented images."""
        return self.D(self._augment(images)[0], c)

    def _augment(self, images: torch.Tensor) -> tuple[torch.Tensor, Augmentation]:
        """Augmented images, and how they were augmented."""
        if self.pipe is None:
            return images, Augmentation()
        params = self.pipe.sample(images)
        return self.pipe.apply(images, params), Augmentation(self.pipe, params)

    def _active(self, where: Pass, images_seen: int) -> list[Term]:
        return [term for term in self.terms if term.where == where and term.active(images_seen)]

    def _generate(
        self, batch: Microbatch, terms: Sequence[Term]
    ) -> tuple[torch.Tensor, Mapping[int, torch.Tensor]]:
        """Images, and the generator's maps that terms capture."""
        capture = tuple(sorted({resolution for term in terms for resolution in term.captures}))
        if not capture:
            return self.generate(batch.z, batch.gen_labels)[0], {}
        (images, maps), _ = self.generate(batch.z, batch.gen_labels, capture=capture)
        return images, maps

    def _pass(
        self,
        batch: Microbatch,
        images: torch.Tensor,
        augmentation: Augmentation,
        c: torch.Tensor,
        terms: Sequence[Term],
        generator_maps: Mapping[int, torch.Tensor],
    ) -> PassOutputs:
        """One pass of D over augmented images. Its decoder runs where a term reads it."""
        if not terms:
            return PassOutputs(batch, images, self.D(images, c), augmentation, self.D)
        decode = any(term.reads_decoder for term in terms)
        logits, *decoder_maps, encoder_maps = self.D(images, c, return_features=decode, return_encoder=True)
        maps = (encoder_maps, decoder_maps[0] if decode else {}, generator_maps)
        return PassOutputs(batch, images, logits, augmentation, self.D, *maps)

    def _add_terms(self, value: torch.Tensor, terms: Sequence[Term], outputs: PassOutputs) -> torch.Tensor:
        """Add the terms of a pass to its loss ``[N]``, and report them."""
        for term in terms:
            further = term(outputs)
            self.stats.report(term.name, further)
            value = value + further
        return value

    def g_main(self, batch: Microbatch, gain: float, images_seen: int) -> None:
        """Non-saturating loss of G, and its terms."""
        terms = self._active("G_fake", images_seen)
        images, maps = self._generate(batch, terms)
        outputs = self._pass(batch, *self._augment(images), batch.gen_labels, terms, maps)
        self._report_logits("fake", outputs.logits)
        value = loss.generator_loss(outputs.logits)
        self.stats.report("Loss/G/loss", value)
        self._add_terms(value, terms, outputs).mean().mul(gain).backward()

    def g_path_length(self, batch: Microbatch, gain: float, images_seen: int) -> None:
        """Path length regularisation of G, on a part of the batch."""
        n = batch.z.shape[0] // self.weights.pl_batch_shrink
        images, ws = self.generate(batch.z[:n], batch.gen_labels[:n])
        lengths = loss.path_lengths(images, ws, loss.path_noise(images))
        # Gradients pass through this batch's share of the mean, as in the reference.
        mean = self.pl_mean.lerp(lengths.mean(), self.weights.pl_decay)
        self.pl_mean.copy_(mean.detach())
        penalty = loss.path_length_penalty(lengths, mean)
        self.stats.report("Loss/pl_penalty", penalty)
        value = penalty * self.weights.pl_weight
        self.stats.report("Loss/G/reg", value)
        value.mean().mul(gain).backward()

    def d_main(self, batch: Microbatch, gain: float, images_seen: int) -> None:
        """Logistic loss of D on generated and on real images, with the terms of both."""
        fake_value = self._d_fake(batch, gain, images_seen)
        real_value = self._d_real(batch, gain, images_seen)
        self.stats.report("Loss/D/loss", fake_value + real_value)

    def _d_fake(self, batch: Microbatch, gain: float, images_seen: int) -> torch.Tensor:
        terms = self._active("D_fake", images_seen)
        with torch.no_grad():
            images, maps = self._generate(batch, terms)
            images, augmentation = self._augment(images)
        outputs = self._pass(batch, images, augmentation, batch.gen_labels, terms, maps)
        value = loss.discriminator_fake_loss(outputs.logits)
        total = self._add_terms(value, terms, outputs)
        self._report_logits("fake", outputs.logits)
        total.mean().mul(gain).backward()
        return value.detach()

    def _d_real(self, batch: Microbatch, gain: float, images_seen: int) -> torch.Tensor:
        terms = self._active("D_real", images_seen)
        outputs = self._pass(batch, *self._augment(batch.real_images), batch.real_labels, terms, {})
        value = loss.discriminator_real_loss(outputs.logits)
        total = self._add_terms(value, terms, outputs)
        self._report_logits("real", outputs.logits)
        total.mean().mul(gain).backward()
        return value.detach()

    def d_r1(self, batch: Microbatch, gain: float, images_seen: int) -> None:
        """R1 regularisation of D on real images."""
        images = batch.real_images.detach().requires_grad_()
        logits = self.discriminate(images, batch.real_labels)
        self._report_logits("real", logits)
        penalty = loss.r1_penalty(logits, images)
        self.stats.report("Loss/r1_penalty", penalty)
        value = penalty * (self.weights.r1_gamma / 2)
        self.stats.report("Loss/D/reg", value)
        value.mean().mul(gain).backward()

    def _report_logits(self, kind: str, logits: torch.Tensor) -> None:
        self.stats.report(f"Loss/scores/{kind}", logits)
        self.stats.report(f"Loss/signs/{kind}", logits.sign())
        if kind == "real" and self.observe_real is not None:
            self.observe_real(logits)
