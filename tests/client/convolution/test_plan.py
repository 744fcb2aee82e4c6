"""Plans and reports, in words."""

from groupconv.convolution.plan import MOST_SHARDS, Alternative, Plan, Range, Shard, StepPlan
from groupconv.convolution.report import Report, ShardReport


def step(shards: int = 2, *, joined: bool = False, alternatives=()) -> StepPlan:
    made = tuple(
        Shard(i, f"w{i}", (Range(i, i + 1),), (Range(0, 4), Range(0, 2)), (Range(i, i + 1),), 2048, 512, 1000, 0.001)
        for i in range(shards)
    )
    return StepPlan("grouped", (2, 8), (4, 4), (2, 4), 2, "batch", "because", made, 0.002, alternatives, joined)


def test_a_plan_tells_what_else_was_considered_and_how_much_longer_it_takes():
    text = Plan((step(alternatives=(Alternative("rows", 4, 0.003), Alternative("nothing", 1, 0.008))),)).explain()
    assert "cut along batch: because" in text
    assert "predicted 2 ms; considered as well:" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["rows", "4", "shards", "3", "ms", "predicted", "1.50", "×"] in rows
    assert ["nothing", "1", "shard", "8", "ms", "predicted", "4.00", "×"] in rows


def test_alternatives_of_joined_steps_are_held_against_the_time_of_all_of_them():
    plan = Plan((step(alternatives=(Alternative("rows", 4, 0.006),)), step(joined=True), step()))
    assert plan.seconds == 0.006
    text = plan.explain()
    assert "predicted 4 ms with the steps joined to it; considered as well:" in text
    assert "1.50 ×" in text
    assert text.splitlines()[-1].startswith("predicted: 6 ms for 3 steps; ")


def test_a_plan_for_very_many_workers_shows_its_beginning():
    text = Plan((step(1000),)).explain()
    assert f"… and {1000 - MOST_SHARDS} more" in text
    assert text.count("\n") < MOST_SHARDS + 10


def test_a_report_holds_predicted_against_measured():
    ran = tuple(ShardReport(i, f"w{i}", "gemm", 0.004, 0.003) for i in range(2))
    text = str(Report(Plan((step(),)), (ran,), {"plan": 0.0001, "execute": 0.004}))
    assert "step 0  cut along batch: predicted 2 ms, measured 4 ms" in text
    assert ["0", "w0", "gemm", "1", "ms", "3", "ms", "4", "ms", "1"] in [line.split() for line in text.splitlines()]
    assert text.endswith("phases: plan 0.1 ms, execute 4 ms")


def test_a_plan_as_a_dict_has_every_number():
    made = Plan((step(),)).as_dict()
    assert made["seconds"] == 0.002
    assert made["steps"][0]["shards"][1]["input"] == (Range(1, 2),)
