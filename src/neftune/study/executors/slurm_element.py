"""One element of a job array: its share of the runs, in turn.

python -m neftune.study.executors.slurm_element FOLDER ELEMENT        started by the array's script
"""

import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from neftune.records import PlannedRun
from neftune.study.executors.protocol import Perform
from neftune.study.files import read_json, write_json
from neftune.study.worker import prepare_process


def main(folder: Path, element: int) -> int:
    """Perform every `elements`-th run of the array from this one on; 0 if none failed."""
    job = read_json(folder / "runs.json")
    prepare_process(job["threads"], None if job["gpus"] else "")
    module, name = job["perform"].split(":")
    perform: Perform = getattr(import_module(module), name)
    failed = 0
    for values in job["runs"][element :: job["elements"]]:
        run = PlannedRun(**values)
        ended = folder / "ended" / f"{run.run_id}.json"
        if ended.exists():
            continue
        failure = perform(Path(job["root"]), run)
        write_json(ended, asdict(failure) if failure else None)
        failed += failure is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
