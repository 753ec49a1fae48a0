"""What is read of files, and written to them: the one door."""
