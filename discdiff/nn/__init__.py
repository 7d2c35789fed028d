"""Small reference networks and adapters.

They are called as ``net(x, t)`` or ``net(x, t, context)`` with t of shape (B,), and know nothing
of diffusion but that time. What their outputs mean is said by a head.
"""

from .columns import Category, Column, Columns, Number
from .diffusers import Diffusers
from .embedding import Local, Tokens, Waves
from .hollow import Attention, Concat, Film, HollowTransformer
from .mlp import MLP, Trunk
from .one_site import Energy, Masked
from .precondition import Precondition
from .standardise import Standardise
from .transformer import Transformer

__all__ = [
    "MLP",
    "Attention",
    "Category",
    "Column",
    "Columns",
    "Concat",
    "Diffusers",
    "Energy",
    "Film",
    "HollowTransformer",
    "Local",
    "Masked",
    "Number",
    "Precondition",
    "Standardise",
    "Tokens",
    "Transformer",
    "Trunk",
    "Waves",
]
