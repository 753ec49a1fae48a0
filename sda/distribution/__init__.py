"""Processes, replicas, devices and their random generators: what a training runs on."""
