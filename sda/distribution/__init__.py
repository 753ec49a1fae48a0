"""Processes, replicas and devices: who trains together."""
