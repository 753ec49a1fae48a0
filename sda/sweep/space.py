"""What a sweep varies: lists of values and ranges, and what Optuna makes of them."""

import dataclasses
import json
import math

import numpy as np

from sda.checks import check_number
from sda.recipe.recipe import layer_of
from sda.sweep.studies import load_optuna


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, for samplers that draw: integers if both are.

    Args:
        low, high: Numbers, the ends, which belong to it.
        log: Whether to draw on a logarithmic scale.

    Raises:
        ValueError: If it is empty, or logarithmic and not above 0.

    Example:

    >>> sda.sweep.Range(0.01, 1.0, log=True)
    Range(low=0.01, high=1.0, log=True)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self):
        for name in ("low", "high"):
            check_number(getattr(self, name), name, "finite", math.isfinite)
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                "Expected `low` to be below `high`, and above 0 on a logarithmic scale. "
                f"Received: {self}"
            )


def distributions(vary):
    """Return Optuna's distributions of a space."""
    optuna = load_optuna()
    made = {}
    for name, values in vary.items():
        if not isinstance(values, Range):
            choices = [encoded(value) for value in values]
            made[name] = optuna.distributions.CategoricalDistribution(choices)
        elif isinstance(values.low, int) and isinstance(values.high, int):
            made[name] = optuna.distributions.IntDistribution(
                values.low, values.high, log=values.log
            )
        else:
            made[name] = optuna.distributions.FloatDistribution(
                values.low, values.high, log=values.log
            )
    return made


def decoded(params):
    """Return the values of settings from those of Optuna, which knows no lists."""
    return {
        name: json.loads(value) if isinstance(value, str) and value[:1] == "[" else value
        for name, value in params.items()
    }


def encoded(value):
    return json.dumps(value) if isinstance(value, list) else value


def encoded_all(values):
    return {name: encoded(value) for name, value in values.items()}


def plain(values):
    return dataclasses.asdict(values) if isinstance(values, Range) else values


def checked_space(vary):
    if not isinstance(vary, dict) or not vary:
        raise ValueError(
            "Expected `vary` to be a dictionary of settings to lists of values. "
            f"Received: vary={vary!r}"
        )
    space = {}
    for name, values in vary.items():
        layer_of(name)
        if isinstance(values, Range):
            space[name] = values
            continue
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
            raise ValueError(
                f"Expected `{name}` to vary over a list of values or an sda.sweep.Range. "
                f"Received: {name}={values!r}"
            )
        values = [_simple(value, name) for value in values]
        if not values or any(values.count(value) > 1 for value in values):
            raise ValueError(
                f"Expected `{name}` to vary over values that differ. Received: {name}={values!r}"
            )
        space[name] = values
    return space


def _simple(value, name):
    """Return a value as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)):
        return [_simple(item, name) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"Expected the values of `{name}` to be numbers, strings, or lists of these. "
        f"Received: {value!r}"
    )
