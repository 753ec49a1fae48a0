"""Tables: columns of numbers, yes and no, and categories, as features of a network and back."""

from sda.tables.columns import Columns

__all__ = ["Columns"]
