"""OREO written out by hand in Python floats: the losses and their gradients, one episode at a time.

An episode is a list of segments; a segment is (V at its start, its log-ratios, its rewards).
"""

from __future__ import annotations

Segment = tuple[float, list[float], list[float]]


def residuals(episode: list[Segment], beta: float) -> list[float]:
    """δ_s = V(s_s) - Σ_{i≥s} r_i + β Σ_{i≥s} ρ_i, with two loops and no cleverness."""
    out = []
    for s in range(len(episode)):
        delta = episode[s][0]
        for later in episode[s:]:
            for rho, r in zip(later[1], later[2]):
                delta += beta * rho - r
        out.append(delta)
    return out


def oreo(episode: list[Segment], beta: float) -> tuple[float, list[float], list[float]]:
    """(loss, ∂L_V/∂V(s_s) per segment, ∂L_π/∂ρ_s per segment); value and policy loss are equal in number.

    ∂L_V/∂V(s_s) = 2 δ_s / S.  ∂L_π/∂ρ_t = 2 β δ_s / S for every token t of segment s: the future is held
    fixed, so δ of an earlier segment gives nothing.
    """
    delta = residuals(episode, beta)
    count = len(delta)
    loss = sum(d * d for d in delta) / count
    return loss, [2 * d / count for d in delta], [2 * beta * d / count for d in delta]
