"""Declare a diffusion model's forward process; derive everything else."""

from importlib import import_module
from typing import Any

from . import (
    beta_chain,
    clock,
    engines,
    enumeration,
    estimates,
    grids,
    guidance,
    heads,
    increments,
    inverse,
    laws,
    metrics,
    nn,
    params,
    reals,
    star,
    steppers,
    tweedie,
    weights,
    zoo,
)
from .certificate import Report, check
from .chains import MatrixChain
from .clock import Clock
from .explain import Explanation, explain
from .flow import Followed, log_prob, probability_flow
from .heads import Exact
from .increments import Increment, increment
from .lattice_walk import LatticeWalk
from .levy import Levy
from .likelihood import elbo, path_kl, vlb
from .loss import loss
from .objectives import cross_entropy, implicit_score_matching, matching, ratio_matching
from .params import learn
from .process import Chain, Given, Lifted, Mixture, Process, Product, Pushed, Scaled, Sum, Timed
from .reverse import Reverse, reverse
from .sample import sample
from .shared import SharedWalk
from .simulate import simulate
from .solve import Engine, Unsolved, solves
from .steppers import families
from .structures import (
    BirthDeath,
    Clusters,
    Increments,
    Interpolate,
    Killing,
    Kronecker,
    LowRank,
    Masking,
    Reflecting,
    Ring,
    Sparse,
)
from .terms import (
    Birth,
    Death,
    Diffusion,
    Drift,
    Ehrenfest,
    Field,
    FiniteJump,
    Immigration,
    Jump,
    Langevin,
    Linear,
    Noise,
    RateMatrix,
    Reaction,
    Replace,
    StateNoise,
    Term,
    one_hot,
    stationary,
)
from .times import times
from .validation import set_validation, validate
from .walks import (
    LevyWalk,
    MarginalWalk,
    MixedWalk,
    ReverseWalk,
    StableWalk,
    Walk,
    linear_betas,
    log_snr_betas,
)

__version__ = "0.1.0"

__all__ = [
    "BirthDeath",
    "Clusters",
    "Increments",
    "Interpolate",
    "Killing",
    "Kronecker",
    "LowRank",
    "Masking",
    "MatrixChain",
    "Reflecting",
    "Ring",
    "Sparse",
    "Birth",
    "Chain",
    "Clock",
    "Death",
    "Diffusion",
    "Drift",
    "Ehrenfest",
    "Engine",
    "Exact",
    "Explanation",
    "Field",
    "FiniteJump",
    "Followed",
    "Given",
    "Immigration",
    "Increment",
    "Jump",
    "Langevin",
    "Levy",
    "Lifted",
    "Linear",
    "Mixture",
    "Noise",
    "Process",
    "Product",
    "Pushed",
    "RateMatrix",
    "Reaction",
    "Replace",
    "Report",
    "Reverse",
    "Scaled",
    "StateNoise",
    "Sum",
    "Term",
    "Timed",
    "Unsolved",
    "Walk",
    "LatticeWalk",
    "LevyWalk",
    "MarginalWalk",
    "MixedWalk",
    "SharedWalk",
    "StableWalk",
    "ReverseWalk",
    "beta_chain",
    "check",
    "clock",
    "cross_entropy",
    "elbo",
    "engines",
    "enumeration",
    "estimates",
    "families",
    "explain",
    "grids",
    "guidance",
    "heads",
    "inverse",
    "implicit_score_matching",
    "increment",
    "increments",
    "laws",
    "learn",
    "log_prob",
    "log_snr_betas",
    "linear_betas",
    "loss",
    "matching",
    "metrics",
    "nn",
    "one_hot",
    "params",
    "path_kl",
    "probability_flow",
    "ratio_matching",
    "reals",
    "reverse",
    "sample",
    "set_validation",
    "simulate",
    "solves",
    "star",
    "stationary",
    "steppers",
    "times",
    "tweedie",
    "validate",
    "vlb",
    "weights",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """`load` needs the training extra, so it is found when it is first asked for."""
    if name == "load":
        return import_module("discdiff.train.run").load
    raise AttributeError(f"module 'discdiff' has no attribute {name!r}")
