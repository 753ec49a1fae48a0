"""Rows of examples, whatever holds them."""
