import pytest

from neftune.training.probes import Timetable
from neftune.training.randomness import stream_seed


def make(num_steps: int, **changes):
    settings = {"steps_per_epoch": 25, "evaluations": 4, "checkpoints": 0, "stops_early": False} | changes
    return Timetable.make(num_steps, **settings)


def test_evaluations_are_evenly_spaced_and_the_end_is_always_one():
    assert sorted(make(250).probe_steps) == [50, 100, 150, 200, 250]
    assert sorted(make(2, evaluations=8).probe_steps) == [1, 2]
    assert sorted(make(1, evaluations=8).probe_steps) == [1]


def test_stop_checks_come_five_times_an_epoch_and_at_most_every_step():
    assert sorted(make(50, stops_early=True).stop_steps) == [5, 10, 15, 20, 25, 30, 35, 40, 45]
    assert sorted(make(12, steps_per_epoch=12, stops_early=True).stop_steps) == [3, 5, 8, 10]
    assert sorted(make(6, steps_per_epoch=3, stops_early=True).stop_steps) == [1, 2, 3, 4, 5]
    assert make(50).stop_steps == frozenset()


def test_checkpoints_lie_between_start_and_end():
    assert sorted(make(250, checkpoints=4).checkpoint_steps) == [50, 100, 150, 200]
    assert make(1, checkpoints=4).checkpoint_steps == frozenset()


def test_streams_are_apart_for_seeds_and_names():
    seeds = {stream_seed(seed, name) for seed in range(100) for name in ("dropout", "data order", "noise")}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert stream_seed(0, "noise") == pytest.approx(stream_seed(0, "noise"))
