"""Adaptive discriminator augmentation: draw once, apply to images and feature maps alike."""

from training.augment.ada import AdaController
from training.augment.params import AugmentParams, AugmentSpec
from training.augment.pipe import AugmentPipe
from training.augment.presets import PRESETS, preset

__all__ = ["PRESETS", "AdaController", "AugmentParams", "AugmentPipe", "AugmentSpec", "preset"]
