"""Sweeps: many runs of one configuration, launched by launch.sweep, their settings in a Python file in configs/sweeps/."""
