"""Where runs are performed: one registry entry an executor, one executor a file."""

from neftune.registry import Registry
from neftune.study.executors.local import on_this_machine
from neftune.study.executors.protocol import Executor, Perform, Watch
from neftune.study.executors.ray import on_ray
from neftune.study.executors.resources import Resources
from neftune.study.executors.slurm import on_slurm
from neftune.study.executors.status import Status

__all__ = ["Executor", "Perform", "Resources", "Status", "Watch", "executors"]

executors: Registry[Executor] = Registry("executor")
executors.register("local")(on_this_machine)
executors.register("ray")(on_ray)
executors.register("slurm")(on_slurm)
