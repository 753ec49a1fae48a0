"""Experiments on `sda`: one module each, run as `python -m experiments.NAME`."""
