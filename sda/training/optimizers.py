"""Fresh optimizers from a template: Keras's configs leave out what is excluded from decay."""

import keras

# What `exclude_from_weight_decay` sets, which no config has.
EXCLUDED = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


def fresh(template, **changes):
    """Return a new optimizer, without state, that is like `template` but for `changes`."""
    copy = type(template).from_config({**template.get_config(), **changes})
    some, other = _inner(template), _inner(copy)
    for name in EXCLUDED:
        if hasattr(some, name):
            setattr(other, name, getattr(some, name))
    return copy


def exclusions(optimizer, variables):
    """Return what is excluded from weight decay, as an entry of settings; empty if nothing is.

    Args:
        optimizer: A Keras optimizer.
        variables: The variables that it trains.
    """
    optimizer = _inner(optimizer)
    pattern = getattr(optimizer, EXCLUDED[1], None)
    keys = getattr(optimizer, EXCLUDED[0], None) or set()
    # Python's sets have no order, and neither has the pattern that Keras makes of one.
    named = [] if pattern is None else sorted(pattern.pattern.split("|"))
    named += sorted(v.name for v in variables if optimizer._var_key(v) in keys)
    return {"excluded": named} if named else {}


def _inner(optimizer):
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer
