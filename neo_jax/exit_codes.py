"""The exit codes of all commands: what launchers, SLURM scripts and Kubernetes rules act upon."""

DONE = 0
FAILED = 1  # an error that nobody foresaw, with its traceback
DATA = 65  # data that cannot be used
NOT_FINITE = 70  # a loss or a gradient that is not finite
TRY_AGAIN = 75  # a process was missing at the start, or data stalled: the same command may succeed
PREEMPTED = 77  # stopped by a signal with everything saved: the same command goes on
CONFIGURATION = 78  # a configuration or a run directory that cannot be used
