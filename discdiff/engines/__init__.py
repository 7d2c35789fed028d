"""Engines: one technique, one file. Importing this package registers them all."""

from . import (
    certain,
    counts,
    families,
    finite,
    gaussian,
    matrix,
    particles,
    replacement,
    truncated,
)

__all__ = [
    "certain",
    "counts",
    "families",
    "finite",
    "gaussian",
    "matrix",
    "particles",
    "replacement",
    "truncated",
]
