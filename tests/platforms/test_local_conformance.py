"""The embedded model passes the suite that every platform passes."""

from contextlib import contextmanager
from typing import ClassVar

import pytest

from orchestrai.errors import PlatformError
from orchestrai.platforms.local import LocalModel
from orchestrai.testing import Place, PlatformConformance


class Counted(LocalModel):
    """Counts the requests that reached the decoder; a prompt that does not fit never does."""

    count = 0

    def _answer(self, job, request):
        self.count += 1
        try:
            return super()._answer(job, request)
        except PlatformError as error:
            if "has a context of" in str(error) or "surrogates" in str(error):
                self.count -= 1
            raise


class TestLocalModel(PlatformConformance):
    not_applicable: ClassVar = {
        "rate_limited": "it runs on this machine and has no limits",
        "window_used_up": "it runs on this machine and has no quota",
        "balance_empty": "it costs nothing",
        "overloaded": "what does not fit its slots waits for one",
        "refuses_key": "it has no key",
        "unreachable": "there is no network between it and its caller",
        "cut": "there is no connection that could break",
        "malformed": "its answers are values, never read from bytes",
        "fails_once": "it has no failures that pass",
    }

    @pytest.fixture(autouse=True)
    def whole(self, demo_model):
        self.model = demo_model

    @contextmanager
    def platform(self, situation):
        self.situation = situation
        platform = Counted(model=self.model)
        yield Place(platform, requests=lambda: platform.count, idle=lambda: not platform._under_way)

    def request(self, platform, prompt="Say something.", **fields):
        if self.situation == "hangs":
            fields |= {"max_tokens": 1_900, "extra": {"ignore_eos": True}}  # longer than the suite waits
        if self.situation == "refuses_request":
            fields |= {"extra": {"temperature": "hot"}}
        return super().request(platform, prompt, **{"max_tokens": 128 if "json_schema" in fields else 24, **fields})
