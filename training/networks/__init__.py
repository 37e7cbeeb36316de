"""The generator, the discriminator and what they are made of."""

from training.networks.discriminator import Discriminator
from training.networks.generator import Generator, modulated_conv2d

__all__ = ["Discriminator", "Generator", "modulated_conv2d"]
