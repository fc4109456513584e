from __future__ import annotations

import asyncio
import copy
import pickle  # noqa: TID251  other libraries pickle values to move them between processes; this reads back our own
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from multiprocessing import get_context

import pandas as pd
import pytest

from orchestrai.errors import Detached, InvalidInput, TaskFailed
from orchestrai.result import Result, Usage
from orchestrai.results import BatchResult
from orchestrai.schemas import answer_schema
from orchestrai.task import Task


def good(answer="yes", **more) -> Result:
    return Result(Task(f"say {answer}"), **{"output": answer, "status": "succeeded", "platform": "openai"} | more)


def bad(prompt="p", **more) -> Result:
    return Result(Task(prompt), **{"status": "failed", "error": "slow down", "error_class": "rate"} | more)


def mixed(**more) -> BatchResult:
    results = [
        good("a", cost=Decimal("0.10"), list_cost=Decimal("0.30"), usage=Usage(10, None, None, 5, None, "provider")),
        bad(platform="gemini", cost=None),
        good("b", cost=Decimal(0), list_cost=Decimal("0.20"), reused=True, platform="claude_code"),
        bad(status="skipped", error_class="input"),
    ]
    return BatchResult(results, duration_s=2.0, **more)


def test_a_batch_is_a_sequence_of_results_in_input_order():
    batch = mixed()
    assert len(batch) == 4
    assert list(batch) == list(batch.results)
    assert batch[0].output == "a"
    assert batch[-1].status == "skipped"
    assert batch[2] in batch
    assert batch.index(batch[2]) == 2
    assert [r.output for r in reversed(batch)] == [None, "b", None, "a"]
    with pytest.raises(IndexError):
        batch[4]


def test_sums_count_what_is_known_and_say_whether_that_is_all():
    batch = mixed()
    assert (batch.success_count, batch.failure_count, batch.reused_count) == (2, 2, 1)
    assert batch.success_rate == 0.5
    assert batch.total_cost == Decimal("0.10")
    assert not batch.cost_complete
    assert batch[::2].cost_complete
    assert batch.total_list_cost == Decimal("0.50")
    assert batch.saved == Decimal("0.40")
    assert batch.total_tokens == 15
    assert batch.duration_s == 2.0
    assert batch.outputs == ["a", None, "b", None]
    assert batch.parsed == [None] * 4
    assert [r.status for r in batch.failures] == ["failed", "skipped"]
    assert {name: len(of) for name, of in batch.by_platform.items()} == {"openai": 1, "gemini": 1, "claude_code": 1}


def test_an_empty_batch_has_failed_at_nothing():
    batch = BatchResult([])
    assert (batch.success_rate, batch.total_cost, batch.cost_complete, batch.failures) == (1.0, 0, True, [])
    assert batch.raise_for_failures() is batch


def test_a_part_of_a_batch_keeps_its_part_of_the_input():
    frame = pd.DataFrame({"text": list("wxyz")}, index=[9, 8, 8, 7])
    batch = mixed(frame=frame, into="kind", name="n", batch_id="b")
    part = batch[1:3]
    assert isinstance(part, BatchResult)
    assert part.df["text"].tolist() == ["x", "y"]
    assert part.df.index.tolist() == [8, 8]
    assert (part.name, part.batch_id) == ("n", "b")
    assert batch[::-1].df["text"].tolist() == list("zyxw")
    assert batch[1:][1:].df["text"].tolist() == ["y", "z"]
    assert batch[9:].df.empty


def test_a_column_is_a_series_and_a_wrong_name_gets_advice():
    frame = pd.DataFrame({"text": list("wxyz")}, index=[9, 8, 8, 7])
    batch = mixed(frame=frame, into="kind")
    assert batch["kind"].tolist()[0] == "a"
    assert batch["kind"].index.tolist() == [9, 8, 8, 7]
    assert batch["text"].tolist() == list("wxyz")
    assert batch["kind_cost"].sum() == pytest.approx(0.10)
    with pytest.raises(KeyError, match="Did you mean 'kind_cost'"):
        batch["kind_costs"]
    assert {"text", "kind", "kind_cost"} <= set(batch._ipython_key_completions_())


def test_unfinished_results_find_their_rows_by_position():
    frame = pd.DataFrame({"text": list("wxyz")})
    running = BatchResult([good("a", index=3), good("b", index=1)], frame=frame, status="running")
    assert running.df["text"].tolist() == ["z", "x"]
    with pytest.raises(InvalidInput, match=r"row 7.*4 rows"):
        BatchResult([good(index=7)], frame=frame)


def test_a_batch_never_changes():
    batch = mixed()
    for change in (lambda: setattr(batch, "status", "running"), lambda: delattr(batch, "results")):
        with pytest.raises(AttributeError, match="never changes"):
            change()
    with pytest.raises(AttributeError):
        batch.anything = 1
    with pytest.raises(InvalidInput, match="running, finished, cancelled, stopped"):
        BatchResult([], status="done")
    with pytest.raises(InvalidInput, match="'float' or 'decimal'"):
        batch.to_pandas(money="cents")


async def never(tasks):
    raise AssertionError("nothing is asked again here")


def test_a_pickled_batch_is_the_same_value_without_its_orchestrator():
    frame = pd.DataFrame({"text": list("wxyz")})
    batch = mixed(frame=frame, into="kind", name="n", project="p", ledger_path="l", batch_id="b", retry=never)
    same = pickle.loads(pickle.dumps(batch))
    assert same.results == batch.results
    assert repr(same) == repr(batch)
    for name in ("status", "duration_s", "into", "schema", "batch_id", "name", "project", "ledger_path", "sampled"):
        assert getattr(same, name) == getattr(batch, name)
    pd.testing.assert_frame_equal(same.to_pandas(), batch.to_pandas())
    with pytest.raises(Detached, match=r"orch\.batch"):
        asyncio.run(same.retry_failures())
    part = pickle.loads(pickle.dumps(batch[2:]))
    assert part.df["text"].tolist() == ["y", "z"]
    assert len(pickle.dumps(batch[:1])) < len(pickle.dumps(batch))


def test_the_columns_of_a_schema_survive_the_journey():
    given = {"type": "object", "properties": {"n": {"type": "integer"}}}
    result = Result(Task("p", schema=given), output='{"n": 1}', parsed={"n": 1}, status="succeeded")
    batch = BatchResult([result], schema=answer_schema(given))
    same = pickle.loads(pickle.dumps(batch))
    pd.testing.assert_frame_equal(same.df, batch.df)
    assert same.schema == batch.schema


def cost_elsewhere(batch: BatchResult) -> tuple[Decimal, str]:
    try:
        asyncio.run(batch.retry_failures())
    except Detached as error:
        return batch.total_cost, type(error).__name__
    return batch.total_cost, "ran"


def test_another_process_can_read_a_batch_but_not_ask_again():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(cost_elsewhere, mixed(retry=never)).result() == (Decimal("0.10"), "Detached")


def test_copies_of_a_value_are_the_value():
    batch = mixed(retry=never)
    assert copy.copy(batch) is batch
    assert copy.deepcopy(batch) is batch


class Asked:
    """Answers what it is asked and remembers it."""

    def __init__(self, status="finished", **more):
        self.tasks = []
        self.status = status
        self.more = more

    async def __call__(self, tasks):
        self.tasks.append(tasks)
        await asyncio.sleep(0)
        return BatchResult(
            (
                good(f"again {task.prompt} {s}", index=i, sample=s, task_id=f"new {i}", **self.more)
                for i, task in enumerate(tasks)
                for s in range(task.samples or 1)
            ),
            status=self.status,
        )


def test_only_what_has_no_answer_is_asked_again_and_the_order_stays():
    asked = Asked(cost=Decimal("0.02"), attempts=1)
    results = [
        good("a", index=0),
        bad("late", index=1, row="r1", cost=Decimal("0.05"), attempts=3),
        bad("gone", index=2, status="cancelled", error_class="cancelled"),
        bad("window", index=3, status="skipped", error_class="window"),
        bad("", index=4, status="skipped", error_class="input"),
    ]
    batch = BatchResult(results, retry=asked, duration_s=1.0, status="cancelled", name="n")
    again = asyncio.run(batch.retry_failures())
    assert [[task.prompt for task in tasks] for tasks in asked.tasks] == [["late", "gone", "window"]]
    assert again.outputs == ["a", "again late 0", "again gone 0", "again window 0", None]
    assert [r.index for r in again] == [0, 1, 2, 3, 4]
    assert again[1].row == "r1"
    assert again[1].task_id == "new 0"
    assert (again.status, again.name) == ("finished", "n")
    assert again.duration_s >= 1.0
    assert batch.outputs == ["a", None, None, None, None]


def test_a_batch_whose_retry_was_cancelled_is_cancelled():
    again = asyncio.run(BatchResult([bad()], retry=Asked(status="cancelled")).retry_failures())
    assert again.status == "cancelled"


def test_what_the_failed_attempts_cost_stays_in_the_sum():
    asked = Asked(cost=Decimal("0.02"), attempts=1, usage=Usage(5, None, None, 1, None, "provider"))
    spent = bad(cost=Decimal("0.05"), attempts=3, usage=Usage(7, None, None, 2, None, "provider"))
    again = asyncio.run(BatchResult([spent], retry=asked).retry_failures())
    assert (again.total_cost, again.total_tokens, again[0].attempts) == (Decimal("0.07"), 15, 4)
    in_doubt = asyncio.run(BatchResult([bad(cost=None)], retry=asked).retry_failures())
    assert in_doubt[0].success
    assert not in_doubt.cost_complete


def test_a_failed_sample_is_asked_again_with_its_row():
    asked = Asked()
    task = Task("row", samples=3)
    results = [Result(task, output=f"old {s}", status="succeeded", sample=s) for s in range(3)]
    results[1] = Result(task, sample=1)
    again = asyncio.run(BatchResult(results, sampled=True, retry=asked).retry_failures())
    assert asked.tasks == [[task]]
    assert again.outputs == ["old 0", "again row 1", "old 2"]


def test_nothing_to_ask_again_is_no_reason_to_ask():
    batch = BatchResult([good(), bad(status="skipped", error_class="input")], retry=never)
    assert asyncio.run(batch.retry_failures()) is batch


def test_an_answer_for_the_wrong_number_of_tasks_is_refused():
    async def short(tasks):
        return BatchResult([])

    with pytest.raises(InvalidInput, match="0 results came back for 1 task"):
        asyncio.run(BatchResult([bad()], retry=short).retry_failures())


def test_failures_are_raised_together_each_with_its_result():
    batch = mixed()
    with pytest.raises(ExceptionGroup, match="2 of 4 tasks have no answer") as raised:
        batch.raise_for_failures()
    assert all(type(error) is TaskFailed for error in raised.value.exceptions)
    assert [error.result for error in raised.value.exceptions] == batch.failures


def test_a_notebook_gets_text_and_html():
    bundle = mixed()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"].startswith(repr(mixed()))


def test_values_and_displays_import_nothing_heavy():
    code = (
        "import sys; from orchestrai.results import BatchResult; from orchestrai.result import Result;"
        "from orchestrai.task import Task; b = BatchResult([Result(Task('p'))]); repr(b); b._repr_mimebundle_();"
        "print([m for m in ('pandas', 'numpy', 'IPython', 'rich', 'pydantic', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
