"""Starts training commands: on this machine, on SLURM, on Kubernetes, on TPU VMs; one or many."""
