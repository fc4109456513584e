"""The demo with its real model: far better than chance, on real text."""

import asyncio
from collections import Counter

from orchestrai import demo, schemas
from orchestrai.messages import Message
from orchestrai.platforms.local import LocalModel
from orchestrai.platforms.protocol import Request
from orchestrai.task import Task


def test_the_embedded_model_is_far_better_than_always_saying_one_label(demo_model):
    frame = demo.demo_frame()
    schema = schemas.answer_schema(demo.DEMO_SCHEMA)

    async def labels(platform):
        work = [
            platform.send(
                Request((Message("user", task.prompt),), platform.model, task.system, json_schema=schema.json_schema)
            )
            for task in Task.from_frame(frame, demo.DEMO_PROMPT, system=demo.DEMO_SYSTEM)
        ]
        replies = await asyncio.gather(*work)
        await platform.close()
        return [schema.parse(reply.text).about for reply in replies]

    answers = asyncio.run(labels(LocalModel(model=demo_model)))
    right = sum(answer == truth for answer, truth in zip(answers, frame[demo.TRUTH], strict=True))
    baseline = max(Counter(frame[demo.TRUTH]).values())
    print(f"{right} of {len(frame)} right, {baseline} by always saying one label")
    assert right > 2 * baseline
