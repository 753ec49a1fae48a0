"""What a run is, and what it needs to resume."""
