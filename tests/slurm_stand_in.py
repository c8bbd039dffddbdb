"""Programs named sbatch, squeue and scancel that run an array's script with bash on this machine."""

import os
import stat
import sys
from pathlib import Path

import pytest

from neftune.study.executors import slurm

STAND_IN = '''#!{python}
"""sbatch runs every element of an array at once; squeue lists those alive; scancel ends them."""
import os, re, signal, subprocess, sys
from pathlib import Path
state, name, words = Path({state!r}), Path(sys.argv[0]).name, sys.argv[1:]
def alive(pid):
    try: return Path(f"/proc/{{pid}}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError: return False
if name == "sbatch":
    text = Path(words[-1]).read_text()
    first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", text).groups())
    output = re.search(r'--output="(.*)"', text).group(1)
    job = str(100 + len(list(state.glob("*.job"))))
    pids = []
    for index in range(first, last + 1):
        with open(output.replace("%a", str(index)), "a") as log:
            one = subprocess.Popen(["bash", words[-1]], env={{**os.environ, "SLURM_ARRAY_TASK_ID": str(index)}},
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        pids.append(one.pid)
    (state / f"{{job}}.job").write_text(" ".join(map(str, pids)))
    print(job)
if name == "squeue":
    pids = (state / (words[words.index("--jobs") + 1] + ".job")).read_text().split()
    print(*[index for index, pid in enumerate(pids) if alive(pid)], sep="\\n")
if name == "scancel":
    for word in words:
        for pid in (state / (word + ".job")).read_text().split():
            if alive(pid): os.killpg(int(pid), signal.SIGTERM)
'''


def stand_in(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the three on PATH, and this repository's packages where an array's element finds them."""
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        path = programs / name
        path.write_text(STAND_IN.format(python=sys.executable, state=str(programs)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUESTIONS", 0.3)
    return programs
