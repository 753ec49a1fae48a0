"""Settings, and what is made of them: a stack, what pretrains it, a classifier on it."""

from sda.recipe.recipe import Recipe

__all__ = ["Recipe"]
