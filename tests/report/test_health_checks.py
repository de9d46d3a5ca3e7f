"""The remarks under "Worth a look": each one on numbers that deserve it, none on numbers that do not."""

from __future__ import annotations

from typing import Any

import pytest
from report_rows import eval_row, metrics_row

from stapo.health import SIGNALS, closing_checks, early_warnings
from stapo.report import write_report
from stapo.report.data import read_run
from stapo.report.summary import comparisons, losses


def health_checks(log) -> list[str]:
    return [*losses(comparisons(log)), *closing_checks(log.metrics, log.config, thinned=log.thinned)]


def found(run) -> str:
    log = read_run(run)
    return " ".join(health_checks(log))


def changed(iteration: int, **paths: Any) -> dict[str, Any]:
    row = metrics_row(iteration)
    for path, value in paths.items():
        part, _, key = path.partition("__")
        if key:
            row[part][key] = value
        else:
            row[part] = value
    return row


def test_a_healthy_run_has_none(make_run):
    assert found(make_run()) == ""


def test_reward_hacking_is_r_ta_up_and_actions_down(make_run):
    rows = [changed(1, update__r_ta=1.0), changed(2, update__r_ta=4.0, valid_actions=0.5, truncated_responses=0.3)]
    text = found(make_run(metrics=rows))
    assert "rose from 1.00 to 4.00 while valid actions fell from 80" in text
    assert "responses cut off" in text
    assert "alpha" in text
    # R_TA that rises alone is what the term is for.
    assert found(make_run(metrics=[changed(1), changed(2, update__r_ta=4.0)])) == ""


def test_reward_hacking_shows_in_p_ti_too(make_run):
    rows = [changed(1), changed(2, update__r_ta=4.0, update__p_ti=2.5)]
    assert "P_TI rose from 0.10 to 2.50" in found(make_run(metrics=rows))


def test_no_flag_ever(make_run, config):
    rows = [changed(i, outlier__flagged=0, outlier__none_because="IQR is 0") for i in (1, 2)]
    assert "No step was ever flagged, so the selective terms did nothing (IQR is 0)." in found(make_run(metrics=rows))
    config["algorithm"]["selective"]["alpha"] = 0
    assert found(make_run(metrics=rows, config=config)) == ""


@pytest.mark.parametrize("mean, said", [(0.05, True), (0.2, False)])
def test_entropy_collapse(make_run, mean, said):
    rows = [changed(1), changed(2, entropy={"mean": mean})]
    assert ("hardly explores" in found(make_run(metrics=rows))) is said


def test_groups_without_a_difference(make_run):
    assert "90 % of the task groups" in found(
        make_run(metrics=[changed(1), changed(2, equal_reward_groups=0.9)])
    ).replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    "dtype, path, gap, said",
    [
        ("float32", None, 0.01, True),
        ("bfloat16", None, 0.1, False),
        ("bfloat16", None, 1.0, True),
        ("bfloat16", "smollm2-135m", 1.0, False),
        ("bfloat16", "smollm2-135m", 3.0, True),
    ],
)
def test_sampler_and_trainer_disagree(make_run, config, dtype, path, gap, said):
    config["model"] |= {"dtype": dtype, "path": path}
    rows = [changed(1), changed(2, update__logprob_gap=gap)]
    text = found(make_run(metrics=rows, config=config))
    assert ("(iteration 2)" in text) is said


def test_selective_gradient_larger_than_the_base(make_run):
    rows = [changed(i, update__selective_gradient_ratio=3.0) for i in (1, 2, 3)]
    assert "median ratio 3.0" in found(make_run(metrics=rows))


def test_a_loss_beyond_noise(make_run):
    evals = [
        eval_row(0, "sampled", 0.5),
        eval_row(3, "sampled", 0.1),
        eval_row(0, "greedy", 0.1),
        eval_row(3, "greedy", 0.09),
    ]
    text = found(make_run(evals=evals))
    assert "Evaluation in sampled play got worse by 6.9 standard errors." in text
    assert "greedy" not in text


# -- warnings of the trainer -------------------------------------------------------------------------------------------


def test_warnings_of_the_trainer_are_told_once_each(make_run):
    rows = [
        changed(1),
        changed(2, warnings=["low-entropy: it was 0.04.", "repetition: it was 40%."]),
        changed(3, warnings=["low-entropy: it was 0.03."]),
        changed(4, warnings=["low-entropy: it was 0.02."]),
        changed(5, warnings=[]),
    ]
    log = read_run(make_run(metrics=rows))
    assert health_checks(log) == [
        "Early warning low-entropy: since iteration 2, in 3 iterations, last in 4: it was 0.02.",
        "Early warning repetition: since iteration 2, in one iteration, last in 2: it was 40%.",
    ]


def test_every_warning_that_the_trainer_can_give_keeps_its_name(make_run):
    """What early_warnings says is what is read here, name and text."""
    rows = [changed(i) for i in range(1, 16)]
    worse = {
        "entropy": {"mean": 0.01}, "update__ref_kl": 3.0, "update__old_kl": 0.5, "repeated_actions": 0.6,
        "response_tokens": 12.0, "truncated_responses": 0.5, "equal_reward_groups": 1.0, "success": 0.2,
        "update__logprob_gap_mean": 0.2,
    }  # fmt: skip
    for row in rows[:10]:
        row["update"]["ref_kl"] = 0.1
    rows[10:] = [changed(i, **worse) for i in range(11, 16)]
    rows[-1]["warnings"] = early_warnings(rows)
    names = [text.partition(":")[0] for text in rows[-1]["warnings"]]
    assert set(SIGNALS) - set(names) == {"high-entropy", "short-responses"}
    log = read_run(make_run(metrics=rows))
    told = [s for s in health_checks(log) if s.startswith("Early warning")]
    assert [s.split()[2].rstrip(":") for s in told] == names


@pytest.mark.parametrize("value", [None, "low-entropy: as text", 3, {"a": 1}, [None, 3, ["x"], ""]])
def test_warnings_that_are_none(make_run, value):
    assert found(make_run(metrics=[changed(1), changed(2, warnings=value)])) == ""


def test_a_warning_without_a_name_is_not_lost(make_run):
    assert "Early warning other: since iteration 2, in one iteration, last in 2: Beware" in found(
        make_run(metrics=[changed(1), changed(2, warnings=["Beware"])])
    )


def test_a_run_whose_rows_are_thinned_says_about(make_run):
    rows = [changed(i, warnings=["low-entropy: x"]) for i in range(1, 1002)]
    assert "since iteration 1, in about 1,002 iterations, last in 1001: x" in found(make_run(metrics=rows))


@pytest.mark.usefixtures("no_plots")
def test_a_warning_is_text_on_the_page(make_run):
    attack = "low-entropy: <script>alert(1)</script>"
    page = write_report(make_run(metrics=[changed(1), changed(2, warnings=[attack])])).read_text()
    assert "<script>alert(1)" not in page
    assert "last in 2: &lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_failed_episodes_are_counted_by_boundary(make_run):
    rows = [
        changed(1, failures={"environment": 2}),
        changed(2, failures={}),
        changed(3, failures={"environment": 1, "reward": 1}),
    ]
    text = found(make_run(metrics=rows))
    assert text.startswith("4 training episodes left out: what failed was not the policy")
    assert "(environment 3, reward 1)" in text
    assert "failures.jsonl" in text
    # What is not a count is passed over.
    assert found(make_run(metrics=[changed(1, failures="many"), changed(2, failures={"reward": None})])) == ""
