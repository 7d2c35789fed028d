"""Published processes by their papers' names; each is a declaration of a few lines.

On reals: `ddpm`, `ddpm_chain`, `cosine`, `vp`, `sub_vp`, `ve`, `vdm`, `edm`, `rectified_flow`,
`blurring`, `ddgm`, `dlpm`, `lim`. With auxiliary variables: `cld`, `psld`, `alda`, `malda`,
`mdm`. On categories: `d3pm_uniform`, `d3pm_absorbing`, `mdlm`, `md4`, `udlm`. On counts:
`blackout`, `jump`. On the unit interval: `beta_diffusion`, `ss_ddpm`.
Where a schedule is one of several in use, the function takes a clock.
"""

from .beta_diffusion import beta_diffusion
from .blackout import blackout
from .blurring import blurring
from .cld import cld
from .d3pm import d3pm_absorbing, d3pm_uniform
from .ddgm import ddgm
from .ddpm import cosine, ddpm, ddpm_chain
from .dlpm import dlpm
from .edm import edm
from .jump import jump
from .lim import lim
from .masked import md4, mdlm
from .mdm import alda, malda, mdm
from .psld import psld
from .rectified_flow import rectified_flow
from .score_sde import sub_vp, ve, vp
from .ss_ddpm import ss_ddpm
from .udlm import udlm
from .vdm import vdm

__all__ = [
    "alda",
    "beta_diffusion",
    "blackout",
    "blurring",
    "cld",
    "cosine",
    "d3pm_absorbing",
    "d3pm_uniform",
    "ddgm",
    "ddpm",
    "ddpm_chain",
    "dlpm",
    "edm",
    "jump",
    "lim",
    "malda",
    "md4",
    "mdlm",
    "mdm",
    "psld",
    "rectified_flow",
    "ss_ddpm",
    "sub_vp",
    "udlm",
    "ve",
    "vdm",
    "vp",
]
