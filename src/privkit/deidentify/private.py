"""Numbers with noise: the Laplace mechanism over whole numbers, drawn anew for each answer.

Source: Dwork, McSherry, Nissim and Smith, "Calibrating Noise to Sensitivity in Private Data Analysis", TCC 2006. The
noise is OpenDP's discrete Laplace distribution, sampled exactly (Canonne, Kamath and Steinke, NeurIPS 2020): whole
numbers leave no trace of a value in their last bits, as floating-point noise does (Mironov, CCS 2012).
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from typing import Any


def available() -> bool:
    """Return whether OpenDP is installed: the extra ``dp``."""
    return find_spec("opendp") is not None


def noisy(number: Decimal, *, unit: Decimal, most: Decimal, epsilon: float) -> Decimal:
    """Return ``number`` and noise, both in whole ``unit``s.

    ``most``: by how much one row can change the number. ``epsilon``: what the answer may lose of that row.
    """
    scale = float(most / unit) / epsilon
    return number if scale == 0 else number + unit * _mechanism(scale)(0)


@cache
def _mechanism(scale: float) -> Any:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    return dp.m.make_laplace(dp.atom_domain(T="i64"), dp.absolute_distance(T="i64"), scale=scale)
