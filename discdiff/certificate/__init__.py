"""The certificate: what every process of a kind is held to, and what a check found."""

from .check import check
from .report import Report

__all__ = ["Report", "check"]
