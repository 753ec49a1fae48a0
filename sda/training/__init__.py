"""One way to run epochs: `fit.py` holds the loop, and each backend has a driver."""
