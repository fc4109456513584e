"""Whole batches on a virtual clock: what a lane makes of limits, faults, outages and lies."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import Outcome, Provider, run

from orchestrai.limits.admission import Admission
from orchestrai.limits.allowance import RetryAllowance
from orchestrai.limits.retry import RetryPolicy

TOKENS = 100.0


def unknown():
    """Return a lane of which nothing is known, under a call that asks for a hundred at once."""
    return Admission(ceiling=100)


# Limits that nobody told.


@pytest.mark.parametrize("headers", ["at the start", "at the end"])
@pytest.mark.parametrize("jitter", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("latency", [0.0005, 0.05, 0.5])
def test_fifty_requests_a_second_are_used_to_the_full_and_hardly_ever_exceeded(latency, jitter, headers):
    provider = Provider(latency=latency, rpm=3000, jitter=jitter, headers=headers)
    report = run(unknown(), provider.meet, 1000)
    assert report.wall <= 1.05 * ((1000 - 25) / 50 + latency + jitter)
    assert len(provider.refused) <= 10
    assert report.lost == 0


def test_control_a_lane_that_reads_no_headers_is_refused_far_more_often():
    provider = Provider(latency=0.05, rpm=3000, headers="none")
    run(unknown(), provider.meet, 1000)
    assert len(provider.refused) > 20


@pytest.mark.parametrize("headers", ["at the start", "at the end"])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("latency", [0.0005, 0.05, 0.5])
def test_tokens_per_minute_are_used_to_the_full_though_estimates_are_wrong(latency, factor, headers):
    provider = Provider(latency=latency, tpm=2330 * 60, token_factor=factor, headers=headers)
    report = run(unknown(), provider.meet, 1000, tokens=TOKENS)
    assert report.wall <= 1.05 * ((1000 * TOKENS * factor - 2330 / 2) / 2330 + latency)
    assert len(provider.refused) <= 10
    assert report.lost == 0


def test_tasks_of_very_different_sizes_share_a_token_limit():
    provider = Provider(latency=0.2, tpm=2330 * 60)
    chance = Random(3)
    sizes = [chance.choice([10.0, 40.0, 900.0]) * chance.random() for _ in range(400)]
    report = run(unknown(), provider.meet, 400, tokens=lambda i: sizes[i])
    assert report.wall <= 1.05 * ((sum(sizes) - 2330 / 2) / 2330 + 0.2)
    assert len(provider.refused) <= 10
    assert report.lost == 0


def test_both_limits_bind_together():
    provider = Provider(latency=0.1, rpm=600, tpm=2330 * 60, burst_s=2.0)
    report = run(unknown(), provider.meet, 600, tokens=lambda i: 50.0 if i % 2 else 400.0)
    assert report.wall <= 1.05 * (600 * 225 - 2 * 2330) / 2330
    assert len(provider.refused) <= 10
    assert report.lost == 0


def test_a_minute_that_may_be_spent_at_once_is_spent_at_once():
    provider = Provider(latency=0.5, rpm=600, burst_s=60)
    report = run(unknown(), provider.meet, 500)
    assert report.wall < 5
    assert provider.refused == []


def test_limits_that_settings_tell_are_kept_from_the_first_request():
    provider = Provider(latency=0.05, rpm=3000, headers="none")
    report = run(Admission(ceiling=100, rpm=3000), provider.meet, 1000)
    assert provider.refused == []
    assert report.wall <= 1.05 * 19.5


@pytest.mark.parametrize(("claims", "most_refused"), [(2.0, 60), (1.2, 60), (0.5, 0)])
def test_a_provider_that_lies_about_its_limits_is_found_out(claims, most_refused):
    provider = Provider(latency=0.05, rpm=3000, claims=claims)
    report = run(unknown(), provider.meet, 1000)
    assert report.lost == 0
    assert len(provider.refused) <= most_refused
    assert report.wall <= 1.1 * 19.5  # the half that it denies was in its bucket at first


@pytest.mark.parametrize("retry_after", [None, 1.0, 5.0])
def test_a_limit_that_is_never_told_loses_no_task(retry_after):
    provider = Provider(latency=0.05, rpm=600, headers="none", retry_after=retry_after)
    report = run(unknown(), provider.meet, 300)
    assert report.lost == 0


def test_a_limit_that_is_never_told_is_measured_by_its_refusals():
    provider = Provider(latency=0.05, rpm=3000, headers="none")
    lane = unknown()
    report = run(lane, provider.meet, 1000)
    assert report.wall <= 1.05 * 19.5
    assert lane.pace == pytest.approx(50, rel=0.2)
    early = sum(at < 5 for at in provider.refused)
    assert len(provider.refused) - early <= 3 * 15  # it tries for more every few seconds


# Success, faults, outages.


def test_success_alone_is_soon_as_wide_as_asked_and_a_second_call_at_once():
    lane, provider = unknown(), Provider(latency=0.1)
    assert run(lane, provider.meet, 1000).wall <= 1.2 * 1.0 + 1e-9
    second = run(lane, provider.meet, 1000, start=100.0)
    assert second.wall == pytest.approx(1.0)
    assert second.most_in_flight == 100


FAULTS = {"overloaded": 0.05, "rate:1": 0.03, "connection": 0.02, "reply": 0.01}


def test_scattered_faults_neither_narrow_the_lane_nor_stop_it():
    walls, lost = [], 0
    for seed in range(40):
        provider = Provider(latency=0.5, jitter=0.02, faults=FAULTS, seed=seed)
        report = run(Admission(20, 20), provider.meet, 400, seed=seed, policy=RetryPolicy(attempts=6))
        walls.append(report.wall)
        lost += report.lost
    assert sorted(walls)[20] <= 1.4 * 10
    assert sorted(walls)[36] <= 1.5 * 10
    assert lost == 0


def test_scattered_refusals_do_not_slow_a_lane_whose_limit_is_known():
    chances = {"rate:1": 0.03}
    provider = Provider(latency=0.5, jitter=0.02, rpm=3000, burst_s=60, faults=chances)
    report = run(Admission(20, 20), provider.meet, 1000)
    assert report.wall <= 1.2 * 1000 / 20 * 0.5
    assert report.lost == 0


def test_control_a_lane_that_rests_for_every_refusal_takes_far_longer():
    class Believing(Admission):
        def end(self, ticket, now, kind=None, retry_after_s=None, limits=None, tokens=None):
            super().end(ticket, now, kind, retry_after_s, limits, tokens)
            self._concurrency.trouble = 1.0  # nothing disproves a rest
            self._concurrency._wanted = 20.0

    provider = Provider(latency=0.5, jitter=0.02, faults=FAULTS)
    assert run(Believing(20, 20), provider.meet, 400, policy=RetryPolicy(attempts=6)).wall > 2 * 10


def by_rest(report):
    return Counter(rest for rest, _ in report.probes)


@pytest.mark.parametrize("kind", ["overloaded", "connection", "timeout", "rate"])
def test_an_outage_of_thirty_seconds_loses_no_task(kind):
    provider = Provider(latency=0.5, outages=((5.0, 35.0),), outage_kind=kind)
    report = run(unknown(), provider.meet, 3000)
    assert report.lost == 0
    assert report.requests <= 3000 + 100 + 12  # what was under way when it began, and the probes
    assert max(by_rest(report).values()) == 1


def test_in_fifty_patterns_of_outages_every_rest_has_one_probe_and_the_rate_comes_back():
    chance, judged = Random(9), 0
    for pattern in range(50):
        begins = chance.uniform(1, 6)
        outages = []
        for _ in range(chance.randint(1, 3)):
            ends = begins + chance.choice([0.2, 1.0, 5.0, 15.0, 30.0]) * chance.uniform(0.5, 1)
            outages.append((begins, ends))
            begins = ends + chance.uniform(5, 40)  # sometimes before the rest is over
        latency, places = chance.uniform(0.3, 1.0), chance.choice([4, 20, 50])
        lane = Admission(ceiling=places)
        states: list[tuple[float, int, float | None]] = []  # time, limit, end of the rest

        def note(now, admission, states=states):
            states.append((now, admission.limit, admission.resting_until))

        provider = Provider(latency=latency, outages=tuple(outages), seed=pattern)
        tasks = int(places / latency * (outages[-1][1] + 40) / 2)
        report = run(lane, provider.meet, tasks, check=note, policy=RetryPolicy(attempts=8))
        assert max(by_rest(report).values(), default=1) == 1, pattern
        assert report.lost == 0, pattern
        for began, ended in outages:
            rests = {until - now for now, _, until in states if until is not None and now < ended and until > began}
            period = max(rests, default=0.5) + latency
            soon = ended + 3 * period
            if soon > report.wall - 2 or any(ended < other <= soon for other, _ in outages):
                continue  # the batch, or the peace, was over before
            judged += 1
            _, limit, until = next(state for state in reversed(states) if state[0] <= soon)
            assert until is None, (pattern, began)
            assert limit >= 0.75 * places, (pattern, began, limit)
    assert judged > 50


# Retries.


def dead(kind, told=None):
    return lambda now, tokens: Outcome(0.01, kind, told)


@pytest.mark.parametrize("kind", ["overloaded", "connection", "timeout", "rate", "key", "balance", "window"])
@pytest.mark.parametrize("told", [None, 1.0])
@pytest.mark.parametrize("places", [1, 10, 1000])
def test_a_thousand_tasks_against_a_dead_platform_cost_at_most_eleven_hundred_requests(kind, told, places):
    lane = Admission(places, places)
    report = run(lane, dead(kind, told), 1000)
    assert report.lost == 1000
    assert report.requests <= 1100
    assert lane.away(report.ended) is not None or report.requests >= 1000


def test_the_allowance_alone_bounds_a_storm_and_without_it_there_is_one():
    def storm(allowance):
        requests, policy, chance = 0, RetryPolicy(), Random(4)
        for _ in range(1000):
            attempts = 1
            while policy.wait_s("overloaded", attempts, None, chance) is not None and allowance.take():
                attempts += 1
            requests += attempts
        return requests

    assert storm(RetryAllowance()) == 1100
    assert storm(RetryAllowance(10**9)) == 6000  # the control


@pytest.mark.parametrize("share", [0.02, 0.1, 0.15])
def test_the_allowance_lasts_while_most_is_answered(share):
    provider = Provider(latency=0.1, faults={"overloaded": share})
    lane = Admission(50, 50)
    report = run(lane, provider.meet, 5000, policy=RetryPolicy(attempts=8))
    assert report.lost == 0
    assert lane.allowance.left > 0


# Limits that settings tell, whatever they are.


@settings(max_examples=40)
@given(
    rpm=st.floats(10, 6000),
    tpm=st.floats(1000, 1e6),
    sizes=st.lists(st.floats(1, 500), min_size=10, max_size=60),
    latency=st.floats(0.01, 3),
)
def test_no_window_of_any_batch_holds_more_than_settings_allow(rpm, tpm, sizes, latency):
    served = []

    def meet(now, tokens):
        served.append((now, tokens))
        return Outcome(latency, tokens=tokens)

    assert run(Admission(ceiling=50, rpm=rpm, tpm=tpm), meet, len(sizes), tokens=lambda i: sizes[i]).lost == 0
    for first in range(len(served)):
        requests = tokens = 0.0
        for last in range(first, len(served)):
            took = served[last][0] - served[first][0]
            assert requests + 1 <= (took / 60 * rpm + max(1.0, rpm / 120)) * (1 + 1e-9) + 1e-6
            # a request larger than the burst leaves when that is full, and is owed afterwards
            burst = max(1.0, tpm / 120)
            assert tokens + min(served[last][1], burst) <= (took / 60 * tpm + burst) * (1 + 1e-9) + 1e-3
            requests += 1
            tokens += served[last][1]
