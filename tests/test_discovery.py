"""Discovery: what a person has is found without configuration, and what is not found says what to do."""

from __future__ import annotations

import pytest
from loopback import openai, orchestrator, upper

from orchestrai import InvalidSettings, NoPlatform, Orchestrator, TaskFailed
from orchestrai.platforms import LocalModel, OpenAI
from orchestrai.platforms.discovery import Finding, chosen, discover, from_table, given
from orchestrai.testing import ProviderServer, ScriptedPlatform
from orchestrai.testing.answers import answer_to


@pytest.fixture(autouse=True)
def no_model(tmp_path, monkeypatch):
    """Keep a model that this machine may have out of the tests."""
    monkeypatch.setenv("ORCHESTRAI_GGUF", str(tmp_path / "no.gguf"))


def found(settings=None):
    return {finding.name: finding for finding in discover(settings or {})}


def test_nothing_is_found_in_a_clean_environment_and_each_reason_says_what_to_do():
    findings = found()
    assert set(findings) == {"openai", "local"}
    assert all((f.platform, f.model, f.tier) == (None, None, None) for f in findings.values())
    assert "OPENAI_API_KEY is not set" in findings["openai"].why
    assert "OPENAI_BASE_URL" in findings["openai"].why
    with pytest.raises(NoPlatform) as caught:
        chosen(list(findings.values()))
    for words in ("openai: OPENAI_API_KEY is not set", "local:", "export OPENAI_API_KEY", "orchestrai model fetch"):
        assert words in str(caught.value)


def test_a_key_in_the_environment_is_a_paid_platform(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    finding = found()["openai"]
    assert isinstance(finding.platform, OpenAI)
    assert (finding.tier, finding.why, finding.automatic) == ("paid", "OPENAI_API_KEY is set", True)
    assert finding.platform.address == "api.openai.com:443"


def test_an_address_and_a_model_in_the_environment_are_used(tmp_path, monkeypatch):
    with ProviderServer(api_key="sk-mine") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_MODEL", "house-model")
        assert found()["openai"].why == "OPENAI_BASE_URL is set"
        with Orchestrator(tmp_path) as orch, pytest.raises(TaskFailed, match="401"):
            orch.run_sync("a")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
        with Orchestrator(tmp_path) as orch:
            result = orch.run_sync("a")
        assert (result.output, result.platform, result.model) == (answer_to("a"), "openai", "house-model")


def test_an_empty_variable_is_not_set(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert found()["openai"].platform is None


def test_settings_make_platforms_in_their_order_before_what_is_found(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("VLLM_KEY", "secret")
    tables = {
        "vllm": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "env:VLLM_KEY", "model": "m"},
        "groq": {"kind": "openai", "base_url": "https://api.groq.com/openai/v1", "tier": "free", "limits": {"rpm": 30}},
    }
    findings = discover(tables)
    assert [f.name for f in findings] == ["vllm", "groq", "openai", "local"]
    assert [f.why for f in findings[:2]] == ["settings", "settings"]
    assert [f.platform.name for f in findings[:3]] == ["vllm", "groq", "openai"]
    assert (findings[1].tier, findings[1].platform.limits) == ("free", {"rpm": 30})
    assert findings[0].platform.account != findings[2].platform.account


def test_a_table_of_the_same_name_replaces_what_would_be_found(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    findings = discover({"openai": {"model": "my-model"}})  # its name is its kind
    assert [f.name for f in findings] == ["openai", "local"]
    assert findings[0].model == "my-model"


def test_settings_in_a_file_are_platforms(tmp_path):
    with ProviderServer() as server:
        (tmp_path / "orchestrai.toml").write_text(
            f'[platforms.mine]\nkind = "openai"\nbase_url = "{server.base_url}"\nmodel = "m"\ntier = "local"\n'
        )
        with Orchestrator(tmp_path) as orch:
            result = orch.run_sync("a")
        assert (result.platform, result.tier, result.cost) == ("mine", "local", 0)


@pytest.mark.parametrize(
    ("name", "table", "cure"),
    [
        ("x", {"kind": "opnai"}, r"platforms\.x: unknown kind 'opnai'\. Did you mean 'openai'"),
        ("opnai", {}, r"platforms\.opnai: unknown kind 'opnai'\. Did you mean 'openai'"),
        ("x", {"kind": "openai", "modle": "m"}, r"platforms\.x: unknown field 'modle'\. Did you mean 'model'"),
        ("x", {"kind": "openai", "api_key": "env:NOT_THERE"}, "NOT_THERE is not set"),
        ("x", {"kind": "openai", "base_url": "nowhere"}, "base_url"),
        ("x", {"kind": "openai", "concurrency": 0}, "concurrency"),
    ],
)
def test_a_mistake_in_a_table_names_the_table_and_the_nearest(name, table, cure):
    with pytest.raises(InvalidSettings, match=cure):
        from_table(name, table)


def test_the_demo_model_waits_to_be_named_unless_it_is_alone():
    demo = Finding("local", ScriptedPlatform("local", demo=True), "found", automatic=False)
    real = Finding("real", ScriptedPlatform("real"), "given")
    gone = Finding("gone", None, "not there")
    platforms, waiting = chosen([demo, real, gone])
    assert [p.name for p in platforms] == ["local", "real"]
    assert waiting == {"local": "answers only when named"}
    platforms, waiting = chosen([demo, gone])
    assert [p.name for p in platforms] == ["local"]
    assert waiting == {}


def test_a_model_that_is_not_there_says_how_to_get_it():
    finding = found()["local"]
    assert finding.platform is None
    assert not finding.automatic
    assert "no.gguf" in finding.why or "orchestrai" in finding.why


def test_what_is_handed_over_is_taken_as_it_is_and_nothing_else_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with ProviderServer() as server, orchestrator(tmp_path, openai(server, name="mine"), upper) as orch:
        assert [(f.name, f.why) for f in orch.findings] == [("mine", "given"), ("upper", "given")]
        assert repr(orch).startswith("<Orchestrator: mine (test-model), upper (upper); ledger ")


def test_built_in_platforms_may_be_given_by_name(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    openai_finding, local_finding = given(["openai", "local"])
    assert isinstance(openai_finding.platform, OpenAI)
    assert isinstance(local_finding.platform, LocalModel)
    with pytest.raises(NoPlatform, match="Did you mean 'local'"):
        given(["locl"])


def test_an_empty_list_of_platforms_is_no_platform(tmp_path):
    with pytest.raises(NoPlatform, match="No platform can answer yet"):
        orchestrator(tmp_path).run_sync("a")


def test_platforms_are_looked_for_once_and_only_when_they_are_needed(tmp_path, monkeypatch):
    with Orchestrator(tmp_path) as orch:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")  # after it was made, before it is asked
        first = orch.findings
        assert first[0].platform is not None
        monkeypatch.delenv("OPENAI_API_KEY")
        assert orch.findings is first


def test_a_third_partys_platform_is_found_by_its_entry_point(tmp_path, monkeypatch):
    """A package that is installed: its metadata lies on the path."""
    package = tmp_path / "site"
    info = package / "acme_ai-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-ai\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[orchestrai.platforms]\nacme = acme_ai:Acme\n")
    (package / "acme_ai.py").write_text(
        "from orchestrai.testing import ScriptedPlatform\n\n\n"
        "class Acme(ScriptedPlatform):\n"
        "    def __init__(self, name='acme', *, region='eu'):\n"
        "        super().__init__(name, model=f'acme-{region}', replies='from acme')\n"
    )
    monkeypatch.syspath_prepend(str(package))
    settings = {"platforms": {"mine": {"kind": "acme", "region": "us"}}}
    with Orchestrator(tmp_path, settings=settings) as orch:
        result = orch.run_sync("a")
    assert (result.output, result.platform, result.model) == ("from acme", "mine", "acme-us")
    with pytest.raises(InvalidSettings, match="Did you mean 'region'"):
        from_table("mine", {"kind": "acme", "regoin": "us"})
