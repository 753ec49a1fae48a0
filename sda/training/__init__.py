"""One way to run epochs: what a run is, its loop, and a driver for each backend."""
