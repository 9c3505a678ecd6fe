"""What is done to samples on the noise axis: noise and other perturbations, each at rising levels, 0 being clean."""

from fmx.data.perturb.base import Perturbation, perturbation, perturbation_kinds
from fmx.data.perturb.draw import generator

__all__ = ["Perturbation", "generator", "perturbation", "perturbation_kinds"]
