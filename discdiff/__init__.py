"""Declare a diffusion model's forward process; derive everything else."""

from . import clock, engines, estimates, grids, heads, laws, metrics, nn, params, steppers, weights
from .check import Report, check
from .clock import Clock
from .explain import Explanation, explain
from .heads import Exact
from .likelihood import elbo, log_prob, path_kl, vlb
from .loss import loss
from .params import learn
from .process import Given, Mixture, Process, Product, Pushed, Scaled, Sum, Timed
from .reverse import Reverse, reverse
from .sample import sample
from .simulate import simulate
from .solve import Engine, Unsolved, solves
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
    Linear,
    Noise,
    RateMatrix,
    Reaction,
    Replace,
    Term,
    one_hot,
)
from .times import times
from .validation import set_validation, validate

__version__ = "0.1.0"
