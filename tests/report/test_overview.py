import math

from neftune.report.overview import ARM_COLOURS, BASELINE_COLOUR, CONTROL_COLOURS, Overview, lost_runs, mean
from tests.synthetic import BASELINE, CONTROL, make_study


def _contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_stands_out_on_its_background():
    for light, dark in (BASELINE_COLOUR, *CONTROL_COLOURS, *ARM_COLOURS):
        assert _contrast(light, "#ffffff") >= 3
        assert _contrast(dark, "#12161c") >= 3


def test_colours_are_distinct_so_that_the_page_can_swap_them():
    lights = [light for light, _ in (BASELINE_COLOUR, *CONTROL_COLOURS, *ARM_COLOURS)]
    assert len(set(lights)) == len(lights)


def test_the_baseline_comes_first_and_controls_last(evidence):
    names = [arm.name for arm in evidence.overview.arms]
    assert names == [BASELINE, "nsr=0.3", "nsr=0.6", "nsr=1.0", CONTROL]
    assert [arm.role for arm in evidence.overview.arms] == ["baseline", "arm", "arm", "arm", "control"]


def test_an_arm_looks_the_same_whatever_else_has_run(study):
    whole = Overview(study)
    partial = Overview(
        make_study(missing=[("nsr=0.3", block, seed) for block in ("world=0", "world=1") for seed in (0, 1, 2)])
    )
    assert partial.arms == whole.arms


def test_unfinished_and_failed_runs_are_told_apart():
    failed, waiting = lost_runs(make_study(failed=[("nsr=0.3", "world=0", 1)], missing=[("nsr=0.6", "world=1", 2)]))
    assert [(run.arm, run.seed) for run, _ in failed] == [("nsr=0.3", 1)]
    assert [(run.arm, run.seed) for run in waiting] == [("nsr=0.6", 2)]


def test_the_mean_of_nothing_is_unknown_not_zero():
    assert math.isnan(mean([]))
    assert math.isnan(mean([math.nan]))
    assert mean([1.0, math.nan, 3.0]) == 2.0
