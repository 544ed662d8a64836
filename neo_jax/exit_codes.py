"""Exit codes of all commands. Launchers, SLURM scripts and Kubernetes rules depend on them."""

DONE = 0
FAILED = 1
DATA = 65
NOT_FINITE = 70
TRY_AGAIN = 75
PREEMPTED = 77
CONFIGURATION = 78
FINAL = (DONE, DATA, NOT_FINITE, CONFIGURATION)  # starting the same command again would change nothing
MEANINGS = {  # as --help shows them
    DONE: "done",
    FAILED: "an unexpected error, with its traceback",
    DATA: "data that cannot be used",
    NOT_FINITE: "a loss or a gradient that is not finite, or a loss that spikes (run.bad_steps)",
    TRY_AGAIN: "a process was missing at the start, something hung, or replicas differ: the same command may succeed",
    PREEMPTED: "stopped by a signal with everything saved: the same command continues",
    CONFIGURATION: "a command line, a configuration or a run directory that cannot be used",
}
