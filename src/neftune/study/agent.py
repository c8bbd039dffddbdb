"""torchrun for the ranks of one run: says which of them died, and never outlives the process that started it.

python -m neftune.study.agent PARENT FOLDER [torchrun's options]
"""

import os
import sys
from pathlib import Path

from neftune.study.lifeline import end_with

PARENT = "NEFTUNE_RANKS_PARENT"
"""Environment variable: process id of the agent, with which its ranks end."""

DIED = "died-{index}.json"
"""What the agent of one machine leaves: the exit code of every rank that failed; negative is a signal."""


def main(parent: int, folder: Path, node: int, options: list[str]) -> int:
    """Start the ranks and wait for them; the exit code."""
    end_with(parent)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from neftune.study.store import write_json

    os.environ[PARENT] = str(os.getpid())
    try:
        run.main([*options, "--module", "neftune.study.rank", str(folder)])  # pyright: ignore[reportUnknownMemberType]
    except ChildFailedError as error:
        sys.stderr.write(f"{error}\n")
        codes = {str(rank): failure.exitcode for rank, failure in error.failures.items()}
        write_json(folder / DIED.format(index=node), codes)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
