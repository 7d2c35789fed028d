"""Two coupled sites by brute force: every law of a small chain as a table, in numpy alone.

Rows of a rate matrix Q are what a state jumps to; ``P(u)`` is the transition matrix of one site
over own time u, and ``joint(u)`` the law of both sites at u, an array (K, K).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import expm

import discdiff as dd


def random_rates(size, seed):
    """A rate matrix without symmetry or zeros."""
    Q = np.random.default_rng(seed).uniform(0.2, 1.0, (size, size))
    np.fill_diagonal(Q, 0)
    return Q - np.diag(Q.sum(1))


def replacing(pi):
    """The rate matrix of replacement by a law."""
    pi = np.asarray(pi, float)
    return np.tile(pi, (len(pi), 1)) - np.eye(len(pi))


def random_law(shape, seed, sharp=2.0):
    """A joint law with strong dependence."""
    p = np.random.default_rng(seed).uniform(size=shape) ** sharp
    return p / p.sum()


@dataclass(frozen=True)
class Toy:
    """A chain on each of two sites, and a joint law of the data."""

    process: dd.Process
    Q: np.ndarray
    data: np.ndarray

    @property
    def size(self):
        return len(self.Q)

    @property
    def states(self):
        """All states of both sites, (K², 2), int64."""
        return torch.tensor(list(itertools.product(range(self.size), repeat=2)))

    def P(self, u):
        return expm(u * self.Q)

    def joint(self, u):
        return self.P(u).T @ self.data @ self.P(u)

    def posterior(self, u):
        """μ[x, d, a] = q(x_0^d = a | x_t = x), (K², 2, K)."""
        P, both = self.P(u), []
        for x, y in self.states.tolist():
            joint = self.data * P[:, x, None] * P[None, :, y]
            joint = joint / joint.sum()
            both.append([joint.sum(1), joint.sum(0)])
        return torch.tensor(np.array(both))

    def left_out(self, u):
        """q(x_0^d = a | x_t of the other site)."""
        P, both = self.P(u), []
        for x, y in self.states.tolist():
            first, second = self.data @ P[:, y], P[:, x] @ self.data
            both.append([first / first.sum(), second / second.sum()])
        return torch.tensor(np.array(both))

    def conditional(self, u):
        """p_t(x^d = a | x_t of the other site)."""
        p = self.joint(u)
        both = [[p[:, y] / p[:, y].sum(), p[x] / p[x].sum()] for x, y in self.states.tolist()]
        return torch.tensor(np.array(both))

    def ratio(self, u):
        """p_t(x with x^d = a) / p_t(x)."""
        p = self.joint(u)
        both = [[p[:, y] / p[x, y], p[x] / p[x, y]] for x, y in self.states.tolist()]
        return torch.tensor(np.array(both))

    def step(self, s, u):
        """p(x_s^d = b | x_u = x), (K², 2, K): the truth, site by site."""
        early, late, both = self.joint(s), self.P(u - s), []
        for x, y in self.states.tolist():
            joint = early * late[:, x, None] * late[None, :, y]
            joint = joint / joint.sum()
            both.append([joint.sum(1), joint.sum(0)])
        return torch.tensor(np.array(both))

    def generator(self):
        """The rate matrix of both sites, (K², K²)."""
        eye = np.eye(self.size)
        return np.kron(self.Q, eye) + np.kron(eye, self.Q)


def toys():
    """Toys for every engine of finite spaces; the last axis of π and of Q is the target state."""
    pi = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    dense = random_rates(3, 5)
    return {
        "uniform": Toy(dd.Replace(even), replacing(even.numpy()), random_law((3, 3), 1)),
        "replaced": Toy(dd.Replace(pi), replacing(pi.numpy()), random_law((3, 3), 2)),
        "dense": Toy(dd.RateMatrix(torch.tensor(dense)), dense, random_law((3, 3), 3)),
    }


def masked(size=3, seed=4):
    """A toy of which the last state is the mask, that data do not take."""
    data = np.zeros((size + 1, size + 1))
    data[:size, :size] = random_law((size, size), seed)
    pi = dd.one_hot(size, size + 1)
    return Toy(dd.Replace(pi), replacing(pi.numpy()), data)


def table(values):
    """A network that knows every state of two sites: values (K², 2, n) by joint index."""

    def net(x, t):
        size = round(len(values) ** 0.5)
        return values[x[:, 0] * size + x[:, 1]]

    return net


def total_variation(p, q):
    """The largest total variation over sites and states."""
    return float((p - q).abs().sum(-1).max() / 2)
