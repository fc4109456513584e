from __future__ import annotations

import warnings
from pathlib import Path

import nbformat
import pytest
from agreement import check_ledger
from nbclient import NotebookClient

TELLING = {
    "quickstart": "16 of 16 reused",
    "batch_on_a_dataframe": "199 of 201 reused",
    "prompt_chaining": "2 asked, 2 reused",
    "cost_analysis": "agree to the last digit",
    "survive_a_crash": "52 of 52 reused, cost 0, 0 requests",
}
"""What a notebook prints once what it shows has worked."""

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_start_to_end_and_its_numbers_agree(path, demo_model, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) for output in shown)
    assert any(TELLING[path.stem] in output.get("text", "") for output in shown)
    ledgers = [found.parent for found in tmp_path.rglob("ledger.db")]
    assert ledgers
    for number, ledger in enumerate(ledgers):  # whoever is asked what it cost says the same
        check_ledger(ledger, tmp_path / f"copy-{number}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_shows_its_results(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(cell.outputs for cell in code)


# --- kernels without a person, and without widgets ---------------------------------------------------------------------

BATCH = """
from orchestrai import Orchestrator
from orchestrai.testing import ScriptedPlatform
orch = Orchestrator("project", platforms=[ScriptedPlatform()])
res = await orch.batch([f"task {i}" for i in range(tasks)])
print(res.success_count)
"""


def executed(folder, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


def shown_by(cell):
    return "".join(output.get("text", "") or str(output.get("data", "")) for output in cell.outputs)


@pytest.mark.parametrize("mode", ["auto", "text"])
def test_papermill_gets_lines_and_its_parameters(mode, tmp_path, monkeypatch):
    import papermill

    monkeypatch.setenv("ORCHESTRAI_PROGRESS", mode)
    parameters = nbformat.v4.new_code_cell("tasks = 3", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(BATCH)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "in.ipynb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # papermill's own, of datetime.utcnow and the like
        done = papermill.execute_notebook(
            tmp_path / "in.ipynb", tmp_path / "out.ipynb", {"tasks": 7}, cwd=tmp_path, progress_bar=False
        )
    cell = done.cells[-1]
    assert [output.name for output in cell.outputs if output.output_type == "stream"] == ["stderr", "stdout"]
    assert "7/7" in shown_by(cell)
    assert "widget-view" not in str(done)


def test_a_widget_that_is_asked_for_ends_as_html_also_where_nobody_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRAI_PROGRESS", "widget")
    done = executed(tmp_path, "tasks = 5", BATCH)
    (shown,) = [output for output in done.cells[1].outputs if output.output_type == "display_data"]
    assert set(shown.data) == {"text/plain", "text/html"}
    assert "5 of 5" in shown.data["text/html"]


def test_a_kernel_without_comms_shows_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRAI_PROGRESS", "widget")
    done = executed(
        tmp_path,
        "tasks = 5\nget_ipython().kernel.comm_manager = None",
        BATCH,
        "h = orch.start(['x'], progress='off')\nh.wait()\nh",
    )
    assert "5/5" in shown_by(done.cells[1])
    assert "widget-view" not in str(done)
    assert "of 1" in shown_by(done.cells[2]) or "/1" in shown_by(done.cells[2])


def test_an_orchestrator_shows_itself(tmp_path):
    done = executed(tmp_path, "tasks = 5", BATCH, "orch", "orch.batch(['x'])")
    data = done.cells[2].outputs[0].data
    assert "1 of 1 platforms can answer" in data["text/html"]
    assert len(data["text/plain"].splitlines()) == 5
    assert "scripted" in data["text/plain"]
    assert "await orch.batch" in done.cells[3].outputs[0].data["text/plain"]


def test_what_cannot_be_shown_as_a_widget_is_shown_as_lines(tmp_path):
    gone = """
def gone(*_, **__):
    raise RuntimeError("the front-end is gone")
get_ipython().display_pub.publish = gone
tasks = 40
"""
    batch = BATCH.replace("for i in range(tasks)]", "for i in range(tasks)], progress='widget'")
    shown = shown_by(executed(tmp_path, gone, batch).cells[1])
    assert "the front-end is gone" in shown
    assert "40/40" in shown
