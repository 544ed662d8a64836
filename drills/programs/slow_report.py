"""neo_jax.train that says when it begins the report and takes a minute before: python -m drills.programs.slow_report --config=..."""

import sys
import time
from typing import Any

from neo_jax import train

if __name__ == "__main__":
    report = train.report_run

    def slow(settings: Any) -> Any:
        print("writing the report", flush=True)
        time.sleep(60)
        return report(settings)

    train.report_run = slow
    sys.exit(train.main(sys.argv[1:]))
