"""Sweeps of the project: python -m launch.sweep run configs/sweeps/FILE.py."""
