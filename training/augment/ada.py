"""Adapt the augmentation probability to how much the discriminator overfits (ADA, section 3.2)."""

from typing import Any

import torch


class AdaController:
    """Keeps ``r_t = E[sign(D(real))]`` near a target by moving p in small steps of fixed size.

    Every ``interval`` batches, ``p ← max(p + sign(r_t − target) · batch_size · interval / (1000 · kimg),
    0)``, with r_t over the real logits observed since the last move. There is no upper bound, as in the
    reference; a transform whose probability exceeds 1 is always applied. Everything happens on ``device``
    without the host waiting for it.

    ``pending`` holds what this rank has observed in the current phase. At its end the phase sums
    ``pending`` over all ranks and calls :meth:`settle`, so that ``totals`` and p are the same on all.

    p itself lives in the pipe (its buffer ``p``) and is saved with it; :meth:`state_dict` holds the rest, so
    that a continued run moves p at the same batches by the same amounts.

    Args:
        target: wanted r_t, between -1 and 1 (the paper and the reference use 0.6).
        interval: batches between moves.
        kimg: thousands of images over which p can go from 0 to 1.
        batch_size: images a batch, over all ranks.
        device: of the logits and of p.

    Raises:
        ValueError: a target outside [-1, 1], or another argument that is not positive.
    """

    def __init__(
        self,
        target: float,
        batch_size: int,
        interval: int = 4,
        kimg: float = 500,
        device: torch.device | str = "cpu",
    ) -> None:
        if not -1 <= target <= 1:
            raise ValueError(f"the ADA target must be between -1 and 1, got {target}")
        for name, value in (("interval", interval), ("kimg", kimg), ("batch_size", batch_size)):
            if value <= 0:
                raise ValueError(f"the ADA {name} must be positive, got {value}")
        self.target, self.interval = target, interval
        self.step_size = batch_size * interval / (kimg * 1000)
        self.batches = 0
        self.totals = torch.zeros(2, device=device)  # sum of signs, number of logits since the last move
        self.pending = torch.zeros_like(self.totals)

    @torch.no_grad()
    def observe(self, real_logits: torch.Tensor) -> None:
        """Count the signs of D's logits for augmented real images, any shape."""
        self.pending[0] += real_logits.sign().sum(dtype=torch.float32)
        self.pending[1] += real_logits.numel()

    @torch.no_grad()
    def settle(self) -> None:
        """End a phase: count what is pending."""
        self.totals += self.pending
        self.pending.zero_()

    @torch.no_grad()
    def update(self, p: torch.Tensor) -> bool:
        """End a batch: move ``p`` (the pipe's buffer, a scalar, in place) if it is due, by what is settled.

        Returns:
            Whether a move was due. Without any logits observed p stays where it is.
        """
        self.batches += 1
        if self.batches % self.interval != 0:
            return False
        signs, count = self.totals.unbind()
        direction = torch.where(count > 0, (signs / count.clamp(min=1) - self.target).sign(), 0)
        p.copy_((p + direction * self.step_size).clamp(min=0))
        self.totals = torch.zeros_like(self.totals)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Batches so far, and the totals (zeros just after a move), the same on all ranks.

        Nothing may be pending.
        """
        return {"batches": self.batches, "totals": self.totals.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.batches = int(state["batches"])
        self.totals = state["totals"].to(self.totals.device, torch.float32).clone()
