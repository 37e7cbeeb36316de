"""Which terms make up each training phase.

A step consists of up to four phases. ``G_main`` and ``D_main`` run in every step, ``G_reg`` (path length) and
``D_reg`` (R1) every few steps ("lazy regularisation", Karras et al. 2020, section 3.1). Each phase
accumulates the gradients of one network only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from torch_utils.training_stats import StatsCollector
from training import loss
from training.augment import AugmentParams, AugmentPipe
from training.networks import Generator


class FakeRegularizer(Protocol):
    """A further term of D on generated images that compares D's decoder maps with the generator's feature
    maps."""

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Of the generator's feature maps that the term needs."""

    def active(self, images_seen: int) -> bool:
        """Whether the term applies after ``images_seen`` images."""

    def __call__(
        self,
        generator_features: Mapping[int, torch.Tensor],
        decoder_maps: Mapping[int, torch.Tensor],
        pipe: AugmentPipe | None,
        params: AugmentParams | None,
    ) -> torch.Tensor:
        """One value a sample, ``[N]``."""


class RealRegularizer(Protocol):
    """A further term of D on real images that compares D's decoder maps with the images' annotations."""

    def __call__(
        self,
        annotations: torch.Tensor,
        decoder_maps: Mapping[int, torch.Tensor],
        pipe: AugmentPipe | None,
        params: AugmentParams | None,
    ) -> torch.Tensor:
        """One value a sample, ``[N]``."""


@dataclass(frozen=True)
class Batch:
    """What one accumulation round of one phase consumes.

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


class Objective:
    """The GAN objective: computes the loss of a phase for one batch and accumulates its gradients.

    Args:
        G, D: the networks.
        pipe: augmentation of everything that D sees; None for none.
        stats: where losses and scores are reported.
        r1_gamma: weight γ of the R1 penalty (γ/2 · ‖∇D‖²).
        pl_weight: weight of the path length penalty.
        style_mixing_prob: probability that an image's styles come from two latents.
        pl_batch_shrink: path lengths are taken on the batch divided by this.
        pl_decay: decay of the running mean of path lengths.
        regularizer: one more fake-image term of D, or None.
        real_regularizer: one more real-image term of D, or None.
        observe_real: is given D's logits of augmented real images, for what adapts the augmentation.
    """

    def __init__(
        self,
        G: Generator,
        D: nn.Module,
        pipe: AugmentPipe | None,
        stats: StatsCollector,
        *,
        r1_gamma: float,
        pl_weight: float,
        style_mixing_prob: float,
        pl_batch_shrink: int = 2,
        pl_decay: float = 0.01,
        regularizer: FakeRegularizer | None = None,
        real_regularizer: RealRegularizer | None = None,
        observe_real: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        self.G = G
        self.D = D
        self.pipe = pipe
        self.stats = stats
        self.r1_gamma = r1_gamma
        self.pl_weight = pl_weight
        self.style_mixing_prob = style_mixing_prob
        self.pl_batch_shrink = pl_batch_shrink
        self.pl_decay = pl_decay
        self.regularizer = regularizer
        self.real_regularizer = real_regularizer
        self.observe_real = observe_real
        self.pl_mean = torch.zeros([], device=next(G.parameters()).device)

    @property
    def terms(self) -> dict[str, Callable[[Batch, float, int], None]]:
        """The phases that do something, in the order in which they run: ``term(batch, gain, images_seen)``.

        ``gain`` multiplies the loss before its gradients are accumulated; ``images_seen`` is the run's
        progress.
        """
        phases = {
            "G_main": self.g_main,
            "G_reg": self.g_path_length,
            "D_main": self.d_main,
            "D_reg": self.d_r1,
        }
        idle = {"G_reg": self.pl_weight == 0, "D_reg": self.r1_gamma == 0}
        return {name: term for name, term in phases.items() if not idle.get(name, False)}

    @property
    def running_means(self) -> list[torch.Tensor]:
        """What the terms move in place besides gradients: the mean path length, and the mapping network's
        mean of w."""
        return [self.pl_mean, self.G.mapping.w_avg]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The running mean of path lengths; the networks are saved by themselves."""
        return {"pl_mean": self.pl_mean.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.pl_mean.copy_(state["pl_mean"])

    def generate(self, z: torch.Tensor, c: torch.Tensor, **synthesis_kwargs: Any) -> tuple[Any, torch.Tensor]:
        """``(G.synthesis's result, ws)`` with style mixing (Karras et al. 2019, section 3.1)."""
        ws = self.G.mapping(z, c, update_emas=True)
        if self.style_mixing_prob > 0:
            num_ws = ws.shape[1]
            cutoff = torch.randint(1, num_ws, [], device=ws.device)
            mixed = torch.rand([], device=ws.device) < self.style_mixing_prob
            second = self.G.mapping(torch.randn_like(z), c)
            from_second = (torch.arange(num_ws, device=ws.device) >= cutoff) & mixed
            ws = torch.where(from_second[None, :, None], second, ws)
        return self.G.synthesis(ws, **synthesis_kwargs), ws

    def judge(self, images: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """D's logits ``[N, 1]`` of the augmented images."""
        return self.D(self._augmented(images)[0], c)

    def _augmented(self, images: torch.Tensor) -> tuple[torch.Tensor, AugmentParams | None]:
        """Augmented images, and with what parameters."""
        if self.pipe is None:
            return images, None
        params = self.pipe.sample(images)
        return self.pipe.apply(images, params), params

    def g_main(self, batch: Batch, gain: float, images_seen: int) -> None:
        """Non-saturating loss of G."""
        images, _ = self.generate(batch.z, batch.gen_labels)
        logits = self.judge(images, batch.gen_labels)
        self._report_logits("fake", logits)
        value = loss.generator_loss(logits)
        self.stats.report("Loss/G/loss", value)
        value.mean().mul(gain).backward()

    def g_path_length(self, batch: Batch, gain: float, images_seen: int) -> None:
        """Path length regularisation of G, on a part of the batch."""
        n = batch.z.shape[0] // self.pl_batch_shrink
        images, ws = self.generate(batch.z[:n], batch.gen_labels[:n])
        lengths = loss.path_lengths(images, ws, loss.path_noise(images))
        mean = self.pl_mean.lerp(
            lengths.mean(), self.pl_decay
        )  # gradients pass through this batch's share, as in the reference
        self.pl_mean.copy_(mean.detach())
        penalty = loss.path_length_penalty(lengths, mean)
        self.stats.report("Loss/pl_penalty", penalty)
        value = penalty * self.pl_weight
        self.stats.report("Loss/G/reg", value)
        value.mean().mul(gain).backward()

    def d_main(self, batch: Batch, gain: float, images_seen: int) -> None:
        """Logistic loss of D on generated and on real images, and the further terms on either where there are
        any."""
        fake_value = self._d_fake(batch, gain, images_seen)
        real_value = self._d_real(batch, gain)
        self.stats.report("Loss/D/loss", fake_value + real_value)

    def _d_real(self, batch: Batch, gain: float) -> torch.Tensor:
        if self.real_regularizer is None:
            logits = self.judge(batch.real_images, batch.real_labels)
            total = value = loss.discriminator_real_loss(logits)
        else:
            if batch.annotations is None:
                raise ValueError("the real-image term needs annotations, and the batch has none")
            images, params = self._augmented(batch.real_images)
            logits, decoder_maps = self.D(images, batch.real_labels, return_features=True)
            value = loss.discriminator_real_loss(logits)
            supervision = self.real_regularizer(batch.annotations, decoder_maps, self.pipe, params)
            self.stats.report("Loss/D/loss_seg", supervision)
            total = value + supervision
        self._report_logits("real", logits)
        total.mean().mul(gain).backward()
        return value.detach()

    def _d_fake(self, batch: Batch, gain: float, images_seen: int) -> torch.Tensor:
        regularizer = (
            self.regularizer
            if self.regularizer is not None and self.regularizer.active(images_seen)
            else None
        )
        with torch.no_grad():
            if regularizer is None:
                images, _ = self.generate(batch.z, batch.gen_labels)
            else:
                (images, generator_features), _ = self.generate(
                    batch.z, batch.gen_labels, capture=regularizer.resolutions
                )
            images, params = self._augmented(images)
        if regularizer is None:
            logits = self.D(images, batch.gen_labels)
            total = value = loss.discriminator_fake_loss(logits)
        else:
            logits, decoder_maps = self.D(images, batch.gen_labels, return_features=True)
            value = loss.discriminator_fake_loss(logits)
            guidance = regularizer(generator_features, decoder_maps, self.pipe, params)
            self.stats.report("Loss/D/loss_gen_reg", guidance)
            total = value + guidance
        self._report_logits("fake", logits)
        total.mean().mul(gain).backward()
        return value.detach()

    def d_r1(self, batch: Batch, gain: float, images_seen: int) -> None:
        """R1 regularisation of D on real images."""
        images = batch.real_images.detach().requires_grad_(True)
        logits = self.judge(images, batch.real_labels)
        self._report_logits("real", logits)
        penalty = loss.r1_penalty(logits, images)
        self.stats.report("Loss/r1_penalty", penalty)
        value = penalty * (self.r1_gamma / 2)
        self.stats.report("Loss/D/reg", value)
        value.mean().mul(gain).backward()

    def _report_logits(self, kind: str, logits: torch.Tensor) -> None:
        self.stats.report(f"Loss/scores/{kind}", logits)
        self.stats.report(f"Loss/signs/{kind}", logits.sign())
        if kind == "real" and self.observe_real is not None:
            self.observe_real(logits)
