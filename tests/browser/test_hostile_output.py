"""No answer executes in the notebook, whichever display it goes through; shown raw, the same texts do."""

from __future__ import annotations

import json

import pytest
from jupyter import Notebook, outputs_text, page_of
from payloads import CONTROLS, PAYLOADS

pytestmark = pytest.mark.browser

CANARY = "window.fired = 0; window.canary = () => { window.fired += 1; };"

SETUP = """
import asyncio, json
from orchestrai import Orchestrator, PlatformError
PAYLOADS = json.load(open({path!r}))

async def echo(request):
    text = request.messages[-1].text
    if text.startswith("FAIL"):
        raise PlatformError("request", text[4:])
    await asyncio.sleep(0.02)
    return text

async def nasty(request):
    raise PlatformError("request", request.messages[-1].text)

nasty.__name__ = "<img src=x onerror=canary()>"
orch = Orchestrator({folder!r}, platforms=[echo, nasty])
"""

SINKS = {
    "results": "for p in PAYLOADS: display(orch.run_sync(p, on_error='continue'))",
    "failed results": "for p in PAYLOADS: display(orch.run_sync('FAIL' + p, on_error='continue', strict=True, platform='echo'))",
    "a batch": "await orch.batch(PAYLOADS + ['FAIL' + p for p in PAYLOADS], name=PAYLOADS[1])",
    "batches of each": "for i in range(0, len(PAYLOADS), 10): display(await orch.batch(PAYLOADS[i:i+10], name=PAYLOADS[i], progress='off'))",
    "live panels": (
        "for i in range(0, len(PAYLOADS), 12):\n"
        "    h = orch.start(['FAIL' + p + ' ' for p in PAYLOADS[i:i+12]], name=PAYLOADS[i], reuse=False)\n"
        "    display(h.panel)\n"
        "    await h"
    ),
    "text progress": "await orch.batch(PAYLOADS, name=PAYLOADS[0], progress='text', reuse=False)",
    "plans": "for i in range(0, len(PAYLOADS), 10): display(orch.plan([p + '!' for p in PAYLOADS[i:i+10]], prompt=None, tags={'x': PAYLOADS[i]}))",
    "explanations": "for r in orch.last_batch[::10]: display(orch.explain(r))",
    "frames": "res = await orch.batch(PAYLOADS, progress='off'); display(res.df); display(res.to_pandas())",
    "platforms and orchestrator": "display(orch.platforms); display(orch.quota); display(orch)",
    "text": "print(*orch.last_batch, orch.last_batch, [repr(r) for r in orch.last_batch])",
    "errors": "orch.run_sync('FAIL' + PAYLOADS[3], platform='echo', strict=True)",
    "markdown on request": "for r in orch.last_batch: r.display_markdown()",
}


@pytest.fixture
def hostile(notebook, page, tmp_path):
    page.add_init_script(CANARY)
    path = tmp_path / "payloads.json"
    path.write_text(json.dumps(PAYLOADS))
    return notebook(
        SETUP.format(path=str(path), folder=str(tmp_path / "project")),
        *SINKS.values(),
    )


def fired(page) -> int:
    page.wait_for_timeout(300)
    return int(page.evaluate("window.fired"))


def test_no_answer_error_prompt_or_name_executes(hostile, page, browser):
    assert len(PAYLOADS) >= 150
    assert hostile.run(0) == []
    for number, sink in enumerate(SINKS, start=1):
        outputs = hostile.run(number, timeout_s=180)
        shown = [output for output in outputs if output["output_type"] != "error"]
        assert bool(shown) != (sink == "errors"), (sink, outputs_text(outputs)[-2000:])
        assert fired(page) == 0, sink
        # Whatever of it could be pressed is pressed; links to the web, which JupyterLab makes of addresses in plain text
        # and Markdown may hold, are a person's to follow.
        pressed = page.evaluate(
            "i => { const cell = jupyterapp.shell.currentWidget.content.widgets[i].node.querySelector('.jp-Cell-outputWrapper');"
            " const all = [...cell.querySelectorAll('.jp-OutputArea-output a:not([href^=http]), .jp-OutputArea-output button,"
            " .jp-OutputArea-output summary, .jp-OutputArea-output [onclick]')];"
            " all.forEach(node => node.click()); return all.length; }",
            number,
        )
        assert fired(page) == 0, (sink, pressed)
    hostile.save()
    with page_of(browser) as another:  # the file, as somebody else opens it
        another.add_init_script(CANARY)
        Notebook(hostile.server, another, None, hostile.name)
        another.locator(".jp-OutputArea-output").nth(20).wait_for()
        assert fired(another) == 0


def test_the_control_the_same_texts_run_where_they_are_shown_raw(notebook, page):
    page.add_init_script(CANARY)
    opened = notebook(f"from IPython.display import HTML, display\nfor p in {CONTROLS!r}: display(HTML(p))")
    opened.run(0)
    assert fired(page) >= len(CONTROLS)
    page.wrong.clear()  # a picture that is not there is an error of the page
