"""Models in files: loaded, exported, and in the tutorial's form."""
