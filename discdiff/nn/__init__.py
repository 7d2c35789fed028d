"""Small reference networks and adapters.

They are called as ``net(x, t)`` or ``net(x, t, context)`` with t of shape (B,), and know nothing
of diffusion but that time. What their outputs mean is said by a head.
"""

from .columns import Category, Column, Columns, Number
from .diffusers import Diffusers
from .embedding import Local, Tokens, Waves
from .mlp import MLP, Trunk
from .precondition import Precondition
from .standardise import Standardise

__all__ = [
    "MLP",
    "Category",
    "Column",
    "Columns",
    "Diffusers",
    "Local",
    "Number",
    "Precondition",
    "Standardise",
    "Tokens",
    "Trunk",
    "Waves",
]
