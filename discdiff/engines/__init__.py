"""Engines: one technique, one file. Importing this package registers them all."""

from . import (
    counts,
    families,
    finite,
    gaussian,
    matrix,
    particles,
    replacement,
    simulated,
    truncated,
)

__all__ = [
    "counts",
    "families",
    "finite",
    "gaussian",
    "matrix",
    "particles",
    "replacement",
    "simulated",
    "truncated",
]
