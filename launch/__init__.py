"""Starts training commands: on this machine, on SLURM, on Kubernetes; one or many."""
