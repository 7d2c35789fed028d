"""Objectives beside the loss: means over single noisy states that need no law of a step."""

from .cross_entropy import cross_entropy
from .implicit import implicit_score_matching
from .matching import ratio_matching

__all__ = ["cross_entropy", "implicit_score_matching", "ratio_matching"]
