"""Linear models at their optimum: many at once, by L-BFGS on the convex loss with an L2 penalty.

    minimise over W, b   C Σ_i w_i loss(x_i W' + b, t_i) + ½ ‖W‖²

which is scikit-learn's `LogisticRegression` (`softmax`, and `sigmoid` with one output for two labels) and, with the
penalty 1 / C, its `Ridge` (`square`). Every pair of a candidate (a layer) and a problem (a set of rows: all, or all but
one fold) is a model of its own; they share the products with the rows, which are most of the work.

The variables are those of W in the principal axes of each candidate's rows, each scaled by the curvature that it has
there: what the products cost is then spent on some tens of steps, whatever the penalty. `Optimum.at` starts from where
the last strength left off, so strengths are best asked for in ascending order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Measured = Callable[[Tensor], tuple[Tensor, Tensor]]
Loss = Literal["softmax", "sigmoid", "square"]
"""Cross-entropy of one label of several; the sum of binary cross-entropies; half of the squared error."""

HISTORY = 20
"""Steps that the curvature is learned from."""
PASSES = 1_000
"""Over the rows, at most; some tens are usual."""
SUFFICIENT = 1e-4
"""Part of the promised descent that a step must bring (Armijo)."""
CHUNK_VALUES = 2**19
"""Outputs at a time: a few MB, which stay in a processor's cache."""
ROUGH = 1e-2
"""Relative gap at which the curvature is looked at again."""
SMALL = 2**24
"""Rows · values · outputs up to which all is computed in float64."""
NOISE = {torch.float32: 1e-6, torch.float64: 1e-14}
"""Relative noise of a loss: a step that raises it by less counts as no ascent."""
CLOSE, CLOSEST = 1e-5, 1e-9
"""How far above the optimum a loss may be, relative: to compare strengths, and for weights that are kept."""


@dataclass(frozen=True)
class Models:
    """Optimal weights.

    Parameters
    ----------
    weight, bias
        [candidates, problems, out, dim] and [candidates, problems, out], float64.
    loss
        Mean of the weighted losses and the penalty over C·rows, [candidates, problems].
    gap
        How far that may be above the optimum, relative; an estimate by the last step's curvature.
    passes
        Over the rows.
    """

    weight: Float[Tensor, "candidates problems out dim"]
    bias: Float[Tensor, "candidates problems out"]
    loss: Float[Tensor, "candidates problems"]
    gap: Float[Tensor, "candidates problems"]
    passes: int

    def outputs(self, x: Float[Tensor, "rows candidates dim"]) -> Float[Tensor, "rows candidates problems out"]:
        """Outputs of rows, in their type."""
        weight, bias = self.weight.to(x), self.bias.to(x)
        found = torch.bmm(x.transpose(0, 1), weight.flatten(1, 2).transpose(1, 2)) + bias.flatten(1)[:, None]
        split: Tensor = found.unflatten(2, weight.shape[1:3])
        return split.transpose(0, 1)


class Optimum:
    """The models of some rows, for one strength of the penalty after the other.

    Parameters
    ----------
    x
        Rows, [rows, candidates, dim]; never copied, unless there are fewer rows than values.
    targets
        [rows, out]: probabilities of the outputs (`softmax`: they sum to 1), or values.
    loss
        Which.
    weights
        What an output's loss counts, [rows, out]; of `softmax` [rows, 1]. None: 1.
    seen
        Whether a problem has a row, [problems, rows]. None: one problem of all rows.
    """

    def __init__(
        self,
        x: Float[Tensor, "rows candidates dim"],
        targets: Float[Tensor, "rows out"],
        loss: Loss,
        weights: Float[Tensor, "rows counted"] | None = None,
        seen: Tensor | None = None,
    ) -> None:
        device = x.device
        self._kind, self._out = loss, targets.shape[1]
        self._targets = targets.to(device, torch.float64).T.contiguous()
        self._weights = None if weights is None else weights.to(device, torch.float64).T.contiguous()
        seen = torch.ones(1, len(x), device=device) if seen is None else seen.to(device)
        self._seen = None if bool((seen == 1).all()) and len(seen) == 1 else seen.double()
        self._rows = seen.double().sum(1)
        self._span: Tensor | None = None
        if len(x) < x.shape[2]:  # the optimum lies in the rows' span, which is smaller
            axes, within = torch.linalg.qr(x.double().permute(1, 2, 0))
            self._span, x = axes, within.permute(2, 0, 1).contiguous().to(x)
        self._x = x
        self._mean, self._axes, self._spread = _principal(x)
        self._found: dict[float, tuple[Tensor, Tensor]] = {}

    def at(self, strength: float, tolerance: float = CLOSEST) -> Models:
        """The models with C = `strength`: their losses at most `tolerance` above the optimum, relative."""
        passes, stages = 0, [(tolerance, torch.float64)]
        if self._x.dtype == torch.float32 and not self._is_small:  # most of the way in float32, or all of it
            stages = [(tolerance, torch.float32)] if tolerance >= CLOSE else [(CLOSE, torch.float32), *stages]
        begun = self._begun(strength)
        for target, kind in stages:
            begun, loss, gap, used = self._solve(strength, begun, target, kind)
            passes += used
        self._found[strength] = begun
        weight, bias = begun
        bias = bias - torch.einsum("kpod,kd->kpo", weight, self._mean)
        if self._span is not None:
            weight = torch.einsum("kpor,kdr->kpod", weight, self._span)
        return Models(weight, bias, loss, gap, passes)

    @property
    def compared(self) -> float:
        """The tolerance at which strengths are compared: a rough one where a fine one takes long."""
        return CLOSEST if self._is_small else CLOSE

    @property
    def _is_small(self) -> bool:
        return self._x.numel() * len(self._rows) * self._out < SMALL

    def _begun(self, strength: float) -> tuple[Tensor, Tensor]:
        """Starting point: the last optimum, or the extrapolation of the last two along the logarithm of the strength.

        Of separable rows the weights go on growing along it.
        """
        if strength in self._found:
            return self._found[strength]
        if not self._found:
            weight = self._axes.new_zeros(self._x.shape[1], len(self._rows), self._out, self._x.shape[2])
            return weight, weight[..., 0].clone()
        nearest = sorted(self._found, key=lambda other: abs(math.log(other / strength)))
        last = self._found[nearest[0]]
        if len(nearest) == 1:
            return last
        before = self._found[nearest[1]]
        share = math.log(strength / nearest[0]) / math.log(nearest[0] / nearest[1])
        ahead = [new + share * (new - old) for new, old in zip(last, before, strict=True)]
        penalty = 1 / (strength * self._rows)
        kind = self._x.dtype
        here, there = (self._measured(weight.to(kind), bias.to(kind), penalty)[0] for weight, bias in (last, ahead))
        better = there < here
        weight, bias = (
            torch.where(better.view(*better.shape, *[1] * (new.ndim - 2)), new, old)
            for new, old in zip(ahead, last, strict=True)
        )
        return weight, bias

    def _solve(
        self, strength: float, begun: tuple[Tensor, Tensor], tolerance: float, kind: torch.dtype
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, int]:
        """Weights in the rows' own coordinates and biases of centred rows; losses, gaps, and passes over the rows."""
        penalty, passes = 1 / (strength * self._rows), 0
        for target in (max(tolerance, ROUGH), tolerance):
            begun, loss, gap, used = self._nearer(penalty, begun, target, kind)
            passes += used
            if bool((gap <= tolerance).all()):
                break
        return begun, loss, gap, passes

    def _nearer(
        self, penalty: Tensor, begun: tuple[Tensor, Tensor], tolerance: float, kind: torch.dtype
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, int]:
        """Approaches the optimum by steps that use the curvature at the starting point."""
        curvature = self._curvature(*begun)
        # From variables to weights in the principal axes, [candidates, problems, out, axes].
        scale = (curvature[..., None] * self._spread[:, None, None] + penalty[:, None, None]).rsqrt()
        of_bias = curvature.rsqrt()
        axes, narrow, along = self._axes.to(kind), scale.to(kind), of_bias.to(kind)

        def measured(z: Tensor) -> tuple[Tensor, Tensor]:
            turned = (z[..., :-1] * narrow).flatten(1, 2)
            weight = torch.bmm(turned, axes.transpose(1, 2)).unflatten(1, z.shape[1:3])
            loss, (gradient, bias) = self._measured(weight, z[..., -1] * along, penalty)
            turned = torch.bmm(gradient.flatten(1, 2), axes).unflatten(1, z.shape[1:3])
            return loss, torch.cat([turned * narrow, (bias * along)[..., None]], dim=-1)

        turned = torch.einsum("kpod,kdr->kpor", begun[0], self._axes)
        z = torch.cat([turned / scale, (begun[1] / of_bias)[..., None]], dim=-1)
        z, loss, gap, passes = lbfgs(measured, z.to(kind), tolerance)
        z = z.double()
        weight = torch.einsum("kpor,kdr->kpod", z[..., :-1] * scale, self._axes)
        return (weight, z[..., -1] * of_bias), loss, gap, passes + 1

    def _curvature(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Curvature of the loss by each output, averaged over the rows, [candidates, problems, out], float64."""
        found = torch.zeros_like(bias)
        if self._kind == "square":
            return found + 1
        for part, rows in self._parts(self._x.dtype):
            outputs = self._outputs(weight.to(rows), bias.to(rows), rows)
            p = outputs.softmax(2) if self._kind == "softmax" else outputs.sigmoid()
            p = p - p.square()
            if self._weights is not None:
                p = p * self._weights[:, part].to(p)
            if self._seen is not None:
                p = p * self._seen[:, None, part].to(p)
            found += p.sum(-1)
        return (found / self._rows[:, None]).clamp(min=1e-8)

    def _parts(self, kind: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        size = max(64, CHUNK_VALUES // (self._x.shape[1] * len(self._rows) * self._out))
        for start in range(0, len(self._x), size):
            part = slice(start, start + size)
            yield part, self._x[part].to(kind)

    def _outputs(self, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        """[candidates, problems, out, rows] of centred weights."""
        flat = weight.flatten(1, 2)
        moved = bias.flatten(1) - torch.bmm(flat, self._mean.to(flat)[:, :, None])[..., 0]
        outputs: Tensor = torch.baddbmm(moved[:, :, None], flat, rows.permute(1, 2, 0)).unflatten(1, weight.shape[1:3])
        return outputs

    def _measured(self, weight: Tensor, bias: Tensor, penalty: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Mean loss with the penalty [candidates, problems], float64, and its gradients."""
        loss = torch.zeros(weight.shape[:2], dtype=torch.float64, device=weight.device)
        gradient, of_bias = torch.zeros_like(weight.flatten(1, 2)), torch.zeros_like(bias)
        for part, rows in self._parts(weight.dtype):
            each, slope = self._losses(self._outputs(weight, bias, rows), part)
            loss += each.sum(-1, dtype=torch.float64)
            gradient += torch.bmm(slope.flatten(1, 2), rows.transpose(0, 1))
            of_bias += slope.sum(-1)
        gradient -= of_bias.flatten(1)[:, :, None] * self._mean.to(gradient)[:, None]
        counts, by = self._rows, penalty.to(weight)[:, None, None]
        gradient = gradient.view_as(weight) / counts.to(weight)[:, None, None] + by * weight
        loss = loss / counts + penalty * weight.double().square().sum((2, 3)) / 2
        return loss, (gradient, of_bias / counts.to(weight)[:, None])

    def _losses(self, outputs: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """[candidates, problems, rows] and their slopes by the outputs [candidates, problems, out, rows]."""
        target = self._targets[:, part].to(outputs)
        if self._kind == "softmax":
            highest = outputs.amax(2, keepdim=True)
            told = (outputs * target).sum(2)
            slope = outputs.sub_(highest).exp_()
            total = slope.sum(2, keepdim=True)
            each = (total.log() + highest)[:, :, 0] - told
            slope = slope.div_(total).sub_(target)
            if self._weights is not None:
                by = self._weights[:, part].to(outputs)
                each, slope = each * by[0], slope.mul_(by)
        else:
            if self._kind == "sigmoid":
                every = torch.nn.functional.softplus(outputs, threshold=40) - outputs * target
                slope = outputs.sigmoid().sub_(target)
            else:
                slope = outputs - target
                every = slope.square() / 2
            if self._weights is not None:
                by = self._weights[:, part].to(outputs)
                every, slope = every * by, slope * by
            each = every.sum(2)
        if self._seen is not None:
            seen = self._seen[:, part].to(outputs)
            each, slope = each * seen, slope.mul_(seen[:, None])
        return each, slope


def _principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [candidates, dim], principal axes [candidates, dim, axes] and variances [candidates, axes], float64."""
    mean = x.mean(0, dtype=torch.float64)
    products = torch.zeros(x.shape[1], x.shape[2], x.shape[2], dtype=torch.float64, device=x.device)
    for part in x.split(1024):
        rows = (part - mean.to(x)).transpose(0, 1)
        products += torch.bmm(rows.transpose(1, 2), rows)
    spread, axes = torch.linalg.eigh(products / len(x))
    return mean, axes, spread.clamp(min=0)


def lbfgs(measured: Measured, start: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor, int]:
    """Minimises many convex functions side by side; all share the calls of `measured`.

    `measured` gives the values [candidates, problems] and gradients at z [candidates, problems, out, axes]. A function
    whose trial step falls short tries a shorter one while the others go on. Returns z, the values, how far they may be
    above the least ones (relative), and the number of calls.
    """
    noise = NOISE[start.dtype]
    z = start
    value, gradient = measured(z)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y, 1 / s·y
    direction, length = -gradient, torch.ones_like(value)
    gamma, still = torch.ones_like(value, dtype=z.dtype), torch.zeros_like(value)
    gap = _dot(gradient, gradient).double() / 2 / value.abs().clamp(min=1e-12)
    going, passes = gap > tolerance, 1
    while bool(going.any()) and passes < PASSES:
        slope = _dot(gradient, direction).double()
        bad = slope >= 0
        if bool(bad.any()):  # rounding spoiled the curvature
            direction = torch.where(_each(bad), -gradient, direction)
            slope = torch.where(bad, -_dot(gradient, gradient).double(), slope)
        step = direction * _each((length * going).to(z.dtype))
        trial = z + step
        found, at = measured(trial)
        passes += 1
        slack = noise * value.abs()
        taken = (found <= value + SUFFICIENT * length * slope + slack) & going
        change = at - gradient
        bend = _dot(step, change)
        curved = taken & (bend > 1e-12 * _dot(step, step).clamp(min=1e-30))
        inverse = torch.where(curved, 1 / bend, torch.zeros_like(bend))
        steps = [*steps[-(HISTORY - 1) :], (step, change, inverse)]
        gamma = torch.where(curved, bend / _dot(change, change).clamp(min=1e-30), gamma)
        # The least of the parabola through both values and the slope, within sensible bounds.
        parabola = -slope * length / (2 * (found - value - slope * length)).clamp(min=1e-300)
        shorter = torch.nan_to_num(parabola, nan=0.1).clamp(0.1, 0.5)
        length = torch.where(taken, torch.ones_like(length), length * shorter)
        still = torch.where(taken & (value - found > slack), torch.zeros_like(still), still + 1)
        z = torch.where(_each(taken), trial, z)
        value = torch.where(taken, found, value)
        gradient = torch.where(_each(taken), at, gradient)
        direction = torch.where(_each(taken), _two_loops(steps, gradient, gamma), direction)
        gap = -_dot(gradient, direction).double() / 2 / value.abs().clamp(min=1e-12)
        going = going & (gap.abs() > tolerance) & (still < 6)
    return z, value, gap.abs(), passes


def _two_loops(
    steps: list[tuple[Tensor, Tensor, Tensor]], gradient: Tensor, gamma: Tensor
) -> Float[Tensor, "candidates problems out axes"]:
    """Minus the gradient times the inverse curvature that the steps tell of (Nocedal 1980)."""
    q, shares = -gradient, []
    for step, change, inverse in reversed(steps):
        share = inverse * _dot(step, q)
        q = q - _each(share) * change
        shares.append(share)
    q = q * _each(gamma)
    for (step, change, inverse), share in zip(steps, reversed(shares), strict=True):
        q = q + _each(share - inverse * _dot(change, q)) * step
    return q


def _each(values: Tensor) -> Tensor:
    """A number for each function, beside its variables."""
    return values[..., None, None]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum((2, 3))
