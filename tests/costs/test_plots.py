"""Plots: each shows what its frame says, loads nothing, and lets no name become markup."""

from __future__ import annotations

import copy
import json
import os
import re

import pandas as pd
import pytest
from history import DAY_US, Writer, orchestrator
from loopback import finished
from test_sql import HOSTILE

from orchestrai import InvalidInput
from orchestrai.ids import now_us
from orchestrai.ledger.rows import HandoffRow, insert

EVIL = (
    "<b>x</b>",
    "<a href='https://evil.example'>x</a>",
    "$\\alpha$ and $\\beta$",
    "%{y}",
    "<img src=x onerror=alert(1)>",
)
PLOTS = {
    "by_day": (), "savings": (), "by_platform": (), "by_model": (), "by_chain": (), "by_batch": (), "by_type": (),
    "by_tag": ("team",), "top": (), "latency": (), "outcomes": (), "estimates": (), "quota": (),
    "reprice": ("gpt-5-mini",), "timeline": (),
}  # fmt: skip


def texts(value: object) -> list[str]:
    """Return every string of a figure's JSON."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    return [text for part in value for text in texts(part)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_shows_its_frame_and_its_money(orch, name):
    figure = getattr(orch.costs.plot, name)(*PLOTS[name])
    shown = json.loads(figure.to_json())
    assert len(figure.frame) > 0 or name == "quota"
    assert shown["data"]
    assert len(json.dumps(shown)) < 60_000
    if name == "by_day":
        drawn = sum(sum(trace.y) for trace in figure.data)
        assert drawn == pytest.approx(orch.costs.summary()["value"]["cost"])


@pytest.mark.parametrize("name", PLOTS)
def test_without_anything_to_show_a_plot_says_nothing_yet(empty, name):
    assert "nothing yet" in getattr(empty.costs.plot, name)(*PLOTS[name]).to_json()


@pytest.mark.parametrize("at", [2**62, -1, 1, 253402300799999998])
def test_a_moment_that_no_calendar_has_bars_no_plot(tmp_path, at):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    for moment in (at, now_us()):
        send = writer.send(writer.batch("absurd"), at=moment, tags={"team": "red"})
        writer.write(send, writer.end(send, finished_at=moment + 1))
    writer.close()
    with orchestrator(tmp_path) as orch:
        for name, arguments in PLOTS.items():
            assert getattr(orch.costs.plot, name)(*arguments).data
        assert orch.costs.dashboard(since=None).data


def test_bars_say_what_they_stand_for_and_that_nothing_was_billed(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "gratis", "free")
    batch = writer.batch()
    now = now_us()
    first = writer.send(batch, at=now - 3 * DAY_US)
    writer.write(first, writer.end(first, cost=0, list_cost=10**12))
    with orchestrator(tmp_path) as orch:
        assert "nothing billed" in orch.costs.plot.by_day().to_json()
        assert orch.costs.plot.by_day("list_cost").headline == "List cost per day"
        for days, headline in ((200, "List cost per week"), (1_000, "List cost per month")):
            earlier = writer.send(batch, at=now - days * DAY_US)
            writer.write(earlier, writer.end(earlier, cost=0, list_cost=10**12))
            figure = orch.costs.plot.by_day("list_cost")
            assert figure.headline == headline
            assert sum(sum(trace.y) for trace in figure.data) == orch.costs.summary()["value"]["list_cost"]
        with pytest.raises(InvalidInput, match="Did you mean 'list_cost'"):
            orch.costs.plot.by_day("list cost")
    writer.close()


def test_a_timeline_shows_the_time_of_the_clock_on_the_wall(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    send = writer.send(writer.batch("x"), at=1_764_284_400_000_000)  # 2025-11-27 23:00 UTC
    writer.write(send, writer.end(send))
    writer.close()
    script = """
        import sys
        from orchestrai import Orchestrator
        with Orchestrator(sys.argv[1]) as orch:
            print(orch.costs.plot.timeline("x").data[0].base[0])
    """
    env = dict(os.environ)
    assert "2025-11-27" in finished(script, tmp_path, env={**env, "TZ": "UTC"})
    assert "2025-11-28 08:00" in finished(script, tmp_path, env={**env, "TZ": "Asia/Tokyo"}).replace("T", " ")


def test_the_dashboard_has_the_tiles_and_the_first_four(orch, empty):
    figure = orch.costs.dashboard()
    values = {trace.title.text: trace.value for trace in figure.data if trace.type == "indicator"}
    assert values["tasks"] == 23
    assert values["billed"] == pytest.approx(orch.costs.summary()["value"]["cost"])
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert [t for t in titles if t][:3] == [
        "Cost per day",
        "Billed, and at list prices without reuse",
        "Platforms and models",
    ]
    assert "nothing yet" in empty.costs.dashboard().to_json()


def test_no_name_becomes_markup_mathematics_or_a_template(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    for i, name in enumerate((*EVIL, *HOSTILE)):
        writer.offer(i, name, "paid", model=name)
        batch = writer.batch(name=name)
        send = writer.send(batch, offer_id=i, tags={"team": name}, chain_id=name, task_type=name)
        writer.write(send, writer.end(send, model_used=name, error_class=None))
    writer.close()
    with orchestrator(tmp_path) as orch:
        plot = orch.costs.plot
        figures = [getattr(plot, name)(*PLOTS[name]) for name in PLOTS]
        figures += [
            orch.costs.dashboard(),
            *(plot.chain(name) for name in EVIL),
            *(plot.timeline(name) for name in EVIL),
        ]
        figures += [plot.by_tag(name) for name in EVIL]
        figures.append(plot.frame(orch.costs.by_model(), "model", "cost", title=EVIL[0]))
        for figure in figures:
            bundle = figure._repr_mimebundle_()
            for text in texts(json.loads(figure.to_json())):
                assert not re.search(r"<(?!br>|extra>|/extra>)", text), text
                assert not re.search(r"\$[^$]*\$", text), text
                assert not re.search(r"%\{(?!x|y|customdata)", text), text
            assert not re.search(r"<(b|a|img)[ >]", bundle["text/html"].replace("<b>evil", ""))
            page = figure.to_page()
            assert "<img src=x" not in page


def test_a_figure_shows_itself_without_a_network(orch, tmp_path):
    figure = orch.costs.plot.by_platform()
    bundle = figure._repr_mimebundle_()
    assert bundle["application/vnd.plotly.v1+json"]["config"]["showSendToCloud"] is False
    assert "cdn" not in json.dumps(bundle)
    assert "scripted-1" in bundle["text/html"]
    assert bundle["text/plain"] == repr(figure)
    path = orch.costs.export(orch.costs.dashboard(), tmp_path / "costs.html")
    page = path.read_text(encoding="utf-8")
    assert "<title>Costs</title>" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)


@pytest.mark.parametrize("count", [3, 1_500])
def test_a_request_in_doubt_is_shown_no_longer_than_the_last_end_that_is_known(tmp_path, count):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    batch, yesterday = writer.batch("killed"), now_us() - DAY_US
    *known, doubt = (writer.send(batch, at=yesterday + i) for i in range(count))
    gone = writer.end(doubt, status="in_doubt", cost=None, duration_ms=None, finished_at=now_us(), settles=0)
    writer.write(*known, doubt, *map(writer.end, known), gone)
    writer.close()
    with orchestrator(tmp_path) as orch:
        found = orch.costs.plot.timeline("killed").frame
        if count == 3:
            assert found.set_index("status")["seconds"]["in_doubt"] == pytest.approx(1, abs=0.01)
        else:
            assert (found["moment"].max() - found["moment"].min()).total_seconds() == pytest.approx(1, abs=0.01)


def test_a_copy_of_a_figure_shows_the_same(orch):
    figure = orch.costs.plot.by_day()
    for same in (copy.copy(figure), copy.deepcopy(figure)):
        assert same._repr_mimebundle_() == figure._repr_mimebundle_()
        assert len(same.frame) == len(figure.frame) > 0


def test_a_large_batch_is_drawn_by_what_was_under_way(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    batch = writer.batch("large")
    sends = [writer.send(batch, at=writer.begun + i * 10_000) for i in range(1_500)]
    writer.write(*sends, *map(writer.end, sends))
    writer.close()
    with orchestrator(tmp_path) as orch:
        figure = orch.costs.plot.timeline("large")
        assert len(figure.to_json()) < 40_000
        assert max(figure.frame["under_way"]) == pytest.approx(
            100, abs=2
        )  # one second each, one every ten milliseconds


def test_parents_and_children_are_linked(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    batch = writer.batch("chained")
    first = writer.send(batch, chain_id="c", depth=0)
    second = writer.send(batch, chain_id="c", depth=1, parent_task_id=first.task_id)
    third = writer.send(batch, chain_id="c", depth=2, parent_task_id=second.task_id)
    other = writer.send(batch, chain_id="c", depth=1, parent_task_id=first.task_id)
    writer.write(*(row for send in (first, second, third, other) for row in (send, writer.end(send, cost=10**12))))
    writer.file.write(lambda c: c.execute("INSERT INTO chains VALUES ('c', 'report', 'here', 1)").rowcount)
    handed = [
        HandoffRow(child.task_id, place, "parent", parent.task_id, None, None, None)
        for child, place, parent in ((second, 0, first), (other, 0, first), (third, 0, second), (third, 1, other))
    ]
    writer.file.write(lambda c: insert(c, HandoffRow, handed))
    writer.close()
    with orchestrator(tmp_path) as orch:
        found = orch.costs.lineage("report", money="decimal").set_index("task_id")
        assert found["cost_below"].map(int).to_dict() == {
            first.task_id: 4,
            second.task_id: 2,
            third.task_id: 1,
            other.task_id: 1,
        }
        assert found["parents"][third.task_id] == (second.task_id, other.task_id)
        assert set(orch.costs.lineage(other.task_id)["task_id"]) == {first.task_id, other.task_id, third.task_id}
        assert orch.costs.plot.chain("report").headline == "Chain report"
        assert orch.costs.plot.chain(other.task_id).headline == f"Task …{other.task_id[-8:]}"
        lines, nodes = orch.costs.plot.chain("report").data
        assert list(lines.x).count(None) == 4
        assert len(nodes.x) == 4
        links = next(trace for trace in orch.costs.plot.timeline("chained").data if trace.type == "scatter")
        assert list(links.x).count(None) == 3
        with pytest.raises(InvalidInput, match="Did you mean 'report'"):
            orch.costs.lineage("reprot")
        with pytest.raises(InvalidInput, match="Did you mean 'chained'"):
            orch.costs.plot.timeline("chaned")


def test_any_frame_can_be_drawn_and_a_wrong_column_is_named(orch):
    found = orch.costs.sql("SELECT platform, count(*) AS n FROM attempts GROUP BY 1")
    assert len(orch.costs.plot.frame(found, "platform", "n").data[0].x) == len(found)
    with pytest.raises(InvalidInput, match="Did you mean 'platform'"):
        orch.costs.plot.frame(found, "plattform", "n")
    with pytest.raises(InvalidInput, match="Column 'platform' holds no numbers"):
        orch.costs.plot.frame(found, "n", "platform")
    with pytest.raises(InvalidInput, match="Did you mean 'bar'"):
        orch.costs.plot.frame(found, "platform", "n", kind="bars")


@pytest.mark.parametrize("dtype", ["str", "object", "category"])
def test_a_frame_of_any_dtype_has_names_that_are_no_markup(orch, dtype):
    frame = pd.DataFrame({"name": pd.Series(EVIL, dtype=dtype), "n": 1})
    assert not any("<" in name for name in orch.costs.plot.frame(frame, "name", "n").data[0].x)
