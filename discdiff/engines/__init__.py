"""Engines: one technique, one file. Importing this package registers them all."""

from . import (
    certain,
    counts,
    factors,
    families,
    finite,
    gaussian,
    hops,
    interpolated,
    kernels,
    masks,
    matrix,
    particles,
    replacement,
    ring,
    tree,
    truncated,
)

__all__ = [
    "certain",
    "factors",
    "hops",
    "interpolated",
    "kernels",
    "masks",
    "ring",
    "tree",
    "counts",
    "families",
    "finite",
    "gaussian",
    "matrix",
    "particles",
    "replacement",
    "truncated",
]
