"""Discovery: what a person has is found without configuration, and what is not found says what to do."""

from __future__ import annotations

import sys

import pytest
from loopback import openai, orchestrator, upper

from orchestrai import InvalidSettings, NoPlatform, Orchestrator, Task, TaskFailed
from orchestrai.platforms import LocalModel, OpenAI, discovery
from orchestrai.platforms.catalogue import shipped, with_settings
from orchestrai.platforms.configured import _class_of, from_table, kinds
from orchestrai.platforms.discovery import Finding, chosen, discover, find, given
from orchestrai.pricing import PriceList
from orchestrai.routing.offers import Router
from orchestrai.settings import Key, Settings
from orchestrai.testing import ProviderServer, ScriptedPlatform
from orchestrai.testing.answers import answer_to
from orchestrai.testing.bill import read_bill


@pytest.fixture(autouse=True)
def no_model(tmp_path, monkeypatch):
    """Keep a model that this machine may have out of the tests."""
    monkeypatch.setenv("ORCHESTRAI_GGUF", str(tmp_path / "no.gguf"))


def found(settings=None):
    return {finding.name: finding for finding in discover(settings or {})}


@pytest.fixture(autouse=True)
def no_clients(tmp_path, monkeypatch):
    """Keep the command-line clients of this machine out of the tests."""
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))


def test_nothing_is_found_in_a_clean_environment_and_each_reason_says_what_to_do():
    findings = found()
    assert set(findings) == set(kinds(shipped()))
    assert all((f.platform, f.model, f.tier, f.data_use) == (None, None, None, None) for f in findings.values())
    assert "OPENAI_API_KEY is not set" in findings["openai"].why
    assert "OPENAI_BASE_URL" in findings["openai"].why
    assert findings["groq"].why == "GROQ_API_KEY is not set (a free key: console.groq.com/keys)"
    assert "OPENROUTER_API_KEY is not set" in findings["openrouter"].why
    with pytest.raises(NoPlatform) as caught:
        chosen(list(findings.values()))
    for words in ("openai: OPENAI_API_KEY is not set", "local:", "OPENAI_API_KEY=…", "orchestrai model fetch", "groq:"):
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
    names = [f.name for f in findings]
    assert (names[:2], names[-1], names.count("groq")) == (["vllm", "groq"], "local", 1)
    assert [f.why for f in findings[:2]] == ["settings", "settings"]
    assert (findings[1].tier, findings[1].platform.limits) == ("free", {"rpm": 30})
    assert findings[0].platform.account != found()["openai"].platform.account


def test_a_table_of_the_same_name_replaces_what_would_be_found(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    findings = discover({"openai": {"model": "my-model"}})  # its name is its kind
    assert [f.name for f in findings].count("openai") == 1
    assert (findings[0].name, findings[0].model) == ("openai", "my-model")


@pytest.mark.parametrize("kind", ["groq", "gemini", "openai", "anthropic"])
def test_a_table_whose_key_is_missing_hides_no_other_platform_and_its_mistakes_are_told(kind):
    """A settings file is shared; not everybody has every key."""
    finding = discover({kind: {"concurrency": 3}, "again": {"kind": kind}})[0]
    assert finding.platform is None
    assert "_API_KEY is not set" in finding.why
    assert given([kind])[0].why == finding.why
    with pytest.raises(InvalidSettings, match="unknown field 'concurency'"):
        discover({kind: {"concurency": 3}})


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
        ("x", {"kind": "codex"}, r"unknown kind 'codex'\. Did you mean 'chatgpt'"),
        ("claud_code", {}, r"unknown kind 'claud_code'\. Did you mean 'claude_code'"),
        ("grok", {}, r"unknown kind 'grok'\. Did you mean 'groq'"),
        ("groq", {}, "GROQ_API_KEY is not set"),
        ("x", {"kind": "openai", "models": "*:free"}, "models is a list of patterns"),
        ("x", {"kind": "openai", "model": "a", "models": ["b*"]}, r"its model 'a' is none of models = \['b\*'\]"),
    ],
)
def test_a_mistake_in_a_table_names_the_table_and_the_nearest(name, table, cure):
    with pytest.raises(InvalidSettings, match=cure):
        from_table(name, table)


def test_the_demo_model_waits_to_be_named_unless_it_is_alone():
    demo = Finding("local", ScriptedPlatform("local", demo=True), "found", automatic=False)
    real = Finding("real", ScriptedPlatform("real"), "given")
    gone = Finding("gone", None, "not there")
    platforms, waiting, barred = chosen([demo, real, gone])
    assert [p.name for p in platforms] == ["local", "real"]
    assert (waiting, barred) == ({"local": "answers only when named"}, {})
    platforms, waiting, _ = chosen([demo, gone])
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


def test_a_table_of_the_settings_may_be_given_by_its_name(tmp_path):
    table = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m", "tier": "local"}
    settings = {"platforms": {"vllm": table, "other": table}}
    with Orchestrator(tmp_path, platforms=["vllm", upper], settings=settings) as orch:
        assert [(f.name, f.model) for f in orch.findings] == [("vllm", "m"), ("upper", "upper")]
    with pytest.raises(NoPlatform, match=r"unknown platform 'vlm'\. Did you mean 'vllm'"):
        _ = Orchestrator(tmp_path, platforms=["vlm"], settings=settings).findings


def test_an_empty_list_of_platforms_is_no_platform(tmp_path):
    with pytest.raises(NoPlatform, match="No platform can answer yet"):
        orchestrator(tmp_path).run_sync("a")


def test_without_any_platform_an_orchestrator_and_its_budgets_can_be_looked_at(tmp_path):
    budget = {"usd": "5", "per": "day"}
    with orchestrator(tmp_path, budgets=[budget]) as orch:
        assert [(use.platform, use.limit) for use in orch.quota] == [(None, 5)]
        assert "0 of 0 platforms can answer" in orch._repr_mimebundle_()["text/plain"]
    with orchestrator(tmp_path / "none") as orch:
        assert "No quota window and no budget" in repr(orch.quota._repr_mimebundle_())


def test_platforms_are_looked_for_once_and_only_when_they_are_needed(tmp_path, monkeypatch):
    with Orchestrator(tmp_path) as orch:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")  # after it was made, before it is asked
        first = orch.findings
        assert next(f for f in first if f.name == "openai").platform is not None
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


# --- what the catalogue fills


def test_a_platform_gets_the_current_model_and_the_data_use_of_its_plan(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    finding = found()["openai"]
    assert (finding.model, finding.data_use) == (shipped().default_model("openai"), "none")
    monkeypatch.setenv("OPENAI_MODEL", "house-model")
    assert found()["openai"].model == "house-model"
    assert discover({"openai": {"model": "mine", "data_use": "unknown"}})[0].model == "mine"
    assert discover({"openai": {"model": "mine", "data_use": "unknown"}})[0].data_use == "unknown"


def test_of_another_server_nothing_is_known(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    table = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "m"}
    made = from_table("vllm", table)
    assert (made.platform.data_use, made.plan, dict(made.platform.limits)) == ("unknown", None, {})
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert found()["openai"].data_use == "unknown"


def test_a_free_key_is_a_free_platform_with_the_limits_of_its_plan(monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", "gsk_test")
    finding = found()["groq"]
    assert (finding.tier, finding.data_use, dict(finding.limits)) == ("free", "none", {"rpm": 30, "rpd": 1000})
    assert finding.platform.address == "api.groq.com:443"
    assert finding.model == shipped().default_model("groq")
    assert finding.why == "GROQ_API_KEY is set"
    assert finding.login == f"key {finding.platform.account}"
    assert "gsk_test" not in repr(finding)


def test_where_only_some_models_are_free_no_other_is_asked_for(monkeypatch):
    """A model that costs cash, asked at the free tier, would be booked as free."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-test")
    platform = found()["openrouter"].platform
    assert isinstance(platform, OpenAI)
    assert platform.serves("google/gemma-4-31b-it:free")
    assert not platform.serves("anthropic/claude-opus-5-5")
    router = Router([platform], PriceList())
    for model in ("anthropic/claude-opus-5-5", "openrouter/anthropic/claude-opus-5-5"):
        assert router.route(Task("q", model=model)).offers == ()
    (offer,) = router.route(Task("q", model="openrouter/nvidia/some:free")).offers
    assert offer.model == "nvidia/some:free"
    with pytest.raises(InvalidSettings, match="none of models"):
        from_table("openrouter", {"model": "anthropic/claude-opus-5-5"})


def test_an_account_that_pays_may_ask_for_every_model(monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-test")
    platform = from_table("openrouter", {"tier": "paid", "model": "anthropic/claude-opus-5-5"}).platform
    assert (platform.tier, platform.serves("openai/gpt-6-luna"), dict(platform.limits)) == ("paid", True, {})


def test_a_key_never_goes_to_an_address_it_was_not_meant_for(monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", "gsk_test")
    platform = from_table("groq", {"base_url": "http://127.0.0.1:1/v1", "model": "m"}).platform
    assert (platform.account, platform.tier, platform.data_use) == (None, "paid", "unknown")


def test_several_accounts_at_one_provider_are_several_platforms(monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", "gsk_first")
    monkeypatch.setenv("SECOND", "gsk_second")
    findings = discover({"groq": {}, "groq_2": {"kind": "groq", "api_key": "env:SECOND"}})
    first, second = findings[:2]
    assert (first.tier, second.tier) == ("free", "free")
    assert first.platform.account != second.platform.account


def test_settings_add_a_free_server_of_their_own(tmp_path, monkeypatch):
    with ProviderServer(api_key="sk-acme") as server:
        monkeypatch.setenv("ACME_KEY", "sk-acme")
        catalogue = {
            "endpoints": {"acme": {"base_url": server.base_url, "key": "ACME_KEY", "tier": "free"}},
            "defaults": {"acme": {"model": "acme-1"}},
        }
        with Orchestrator(tmp_path, settings={"catalogue": catalogue}) as orch:
            result = orch.run_sync("a", platform="acme")
    assert (result.output, result.platform, result.model, result.tier) == (answer_to("a"), "acme", "acme-1", "free")


# --- never_train


def test_never_train_bars_what_may_train_and_says_why(tmp_path):
    trains = ScriptedPlatform("trains", data_use="may_train", bill=tmp_path / "bill")
    unknown = ScriptedPlatform("unknown", data_use="unknown")
    with orchestrator(tmp_path, trains, unknown, never_train=True) as orch:
        assert orch.run_sync("a").platform == "unknown"
        reason = orch._routing().route(Task("a")).excluded["trains"]
        assert reason.startswith("never_train is set, and its plan may train on your data;")
        assert "[platforms.trains]" in reason
        with pytest.raises(NoPlatform, match="'trains' may not be asked: never_train"):
            orch.run_sync("b", platform="trains")
    assert read_bill(tmp_path / "bill") == []
    control = ScriptedPlatform("trains", data_use="may_train", bill=tmp_path / "bill")
    with orchestrator(tmp_path, control, unknown) as orch:
        assert orch.run_sync("c", platform="trains").platform == "trains"
    assert len(read_bill(tmp_path / "bill")) == 1


def test_where_everything_may_train_never_train_leaves_nothing_and_says_so(tmp_path):
    with (
        orchestrator(tmp_path, ScriptedPlatform("trains", data_use="may_train"), never_train=True) as orch,
        pytest.raises(NoPlatform, match="trains: never_train is set"),
    ):
        orch.run_sync("a")


def test_where_a_key_does_not_tell_its_tier_the_worst_of_its_plans_counts(monkeypatch):
    """As with Gemini: the key of a project that pays looks like that of one that is trained on."""
    monkeypatch.setenv("ACME_KEY", "sk-acme")
    plan = {"platform": "openai", "title": "x", "valid_from": "2026-01-01"}
    catalogue = with_settings({"plans": {"openai.free": {**plan, "tier": "free", "data_use": "may_train"}}})
    assert from_table("openai", {"api_key": "env:ACME_KEY"}, catalogue).platform.data_use == "may_train"
    assert from_table("openai", {"api_key": "env:ACME_KEY", "tier": "paid"}, catalogue).platform.data_use == "none"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-acme")
    finding = next(f for f in discover({}, catalogue) if f.name == "openai")
    assert "does not show its plan" in finding.why
    assert 'tier = "paid" under [platforms.openai]' in finding.why
    settings = Settings(
        never_train=True, catalogue={"plans": {"openai.free": dict(plan, tier="free", data_use="may_train")}}
    )
    assert 'write tier = "paid"' in next(f for f in find(settings) if f.name == "openai").barred


# --- command-line clients

CLAUDE = """#!/bin/sh
case "$1" in
--version) echo "2.1.197 (Claude Code)" ;;
auth) echo '{"loggedIn": true, "authMethod": "claude.ai", "apiProvider": "firstParty", "subscriptionType": "max"}' ;;
esac
"""


def install(folder, name, script):
    """Put a program on the path."""
    program = folder / "bin" / name
    program.write_text(script)
    program.chmod(0o755)
    return program


def test_a_claude_login_is_a_subscription(tmp_path):
    program = install(tmp_path, "claude", CLAUDE)
    finding = found()["claude_code"]
    assert (finding.version, finding.login, finding.why) == ("2.1.197", "claude.ai, max", str(program))
    assert (finding.tier, finding.data_use) == ("subscription", "may_train")
    assert finding.model == shipped().default_model("claude_code")
    assert finding.plan.id == "claude_code.plan"


def test_a_chatgpt_login_is_a_subscription_and_one_by_key_is_not(tmp_path, monkeypatch):
    install(tmp_path, "codex", "#!/bin/sh\necho codex-cli 0.169.0\n")
    home = tmp_path / "codex-home"
    home.mkdir()
    monkeypatch.setenv("CODEX_HOME", str(home))
    (home / "auth.json").write_text('{"auth_mode": "apikey", "OPENAI_API_KEY": "sk-canary"}')
    by_key = found()["chatgpt"]
    assert (by_key.platform, by_key.version) == (None, "0.169.0")
    assert "billed by the token" in by_key.why
    (home / "auth.json").write_text('{"auth_mode": "chatgpt", "tokens": {"account_id": "acc-canary"}}')
    finding = found()["chatgpt"]
    assert (finding.login, finding.tier, finding.data_use) == ("ChatGPT", "subscription", "may_train")
    assert (finding.model, finding.plan.id) == (shipped().default_model("chatgpt"), "chatgpt.plan")
    assert "canary" not in repr(finding) + repr(by_key)


@pytest.fixture
def gemini_login(tmp_path, monkeypatch):
    """Gemini CLI as npm installs it, with a Google login."""
    package = tmp_path / "node_modules" / "@google" / "gemini-cli"
    (package / "bundle").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "@google/gemini-cli", "version": "0.61.0"}')
    program = package / "bundle" / "gemini.js"
    program.write_text("#!/usr/bin/env node\n")
    program.chmod(0o755)
    (tmp_path / "bin" / "gemini").symlink_to(program)
    install(tmp_path, "node", "#!/bin/sh\n")
    (tmp_path / "home" / ".gemini").mkdir(parents=True)
    (tmp_path / "home" / ".gemini" / "oauth_creds.json").write_text("{}")
    monkeypatch.setenv("GEMINI_CLI_HOME", str(tmp_path / "home"))


def test_a_personal_login_of_gemini_cli_waits_to_be_named_since_its_plan_ended(gemini_login):
    finding = found()["gemini_cli"]
    assert (finding.version, finding.login, finding.tier) == ("0.61.0", "Google", "free")
    assert (finding.automatic, finding.data_use) == (False, "may_train")
    assert "IneligibleTierError" in finding.why
    other = Finding("other", ScriptedPlatform("other"), "given")
    assert chosen([finding, other])[1] == {"gemini_cli": "answers only when named: its plan ended on 2026-06-17"}


def test_a_licence_of_gemini_cli_is_written_into_the_settings(gemini_login):
    finding = discover({"gemini_cli": {"tier": "subscription"}})[0]
    assert (finding.automatic, finding.tier, finding.data_use) == (True, "subscription", "none")
    assert dict(finding.limits) == {"rpm": 120, "rpd": 1500}


def test_settings_bring_the_1500_free_requests_a_day_back(gemini_login):
    settings = Settings(catalogue={"plans": {"gemini_cli.personal": {"valid_until": "2999-12-31"}}})
    finding = next(f for f in find(settings) if f.name == "gemini_cli")
    assert (finding.automatic, finding.tier, finding.limits["rpd"]) == (True, "free", 1500)


def test_a_gemini_key_may_be_one_that_is_trained_on_until_settings_say_that_it_pays(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "AIza-test")
    finding = found()["gemini"]
    assert (finding.tier, finding.data_use) == ("paid", "may_train")
    assert 'write tier = "paid" under [platforms.gemini]' in finding.why
    assert discover({"gemini": {"tier": "paid"}})[0].data_use == "none"
    free = discover({"gemini": {"tier": "free"}})[0]
    assert (free.tier, free.data_use, dict(free.limits)) == ("free", "may_train", {"rpm": 10, "rpd": 250})


def test_an_anthropic_key_is_a_paid_platform(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    finding = found()["anthropic"]
    assert (finding.tier, finding.data_use, finding.why) == ("paid", "none", "ANTHROPIC_API_KEY is set")


def test_a_second_plan_has_a_login_of_its_own(tmp_path, monkeypatch):
    install(tmp_path, "claude", CLAUDE.replace("echo '{", 'test "$CLAUDE_CODE_OAUTH_TOKEN" = tok-2 && echo \'{'))
    monkeypatch.setenv("SECOND", "tok-2")
    table = {"kind": "claude_code", "env": {"CLAUDE_CODE_OAUTH_TOKEN": "env:SECOND"}}
    second = discover({"second": table})[0]
    assert (second.name, second.login, second.platform is not None) == ("second", "claude.ai, max", True)
    assert found()["claude_code"].platform is None  # without that token it is not logged in
    assert "tok-2" not in repr(from_table("second", table))
    with pytest.raises(InvalidSettings, match=r"env\.CLAUDE_CODE_OAUTH_TOKEN says 'env:NOBODY', but NOBODY is not set"):
        from_table("x", {**table, "env": {"CLAUDE_CODE_OAUTH_TOKEN": "env:NOBODY"}})


CLIENT = """
import threading
from orchestrai.platforms.cli_state import CliState
from orchestrai.testing import ScriptedPlatform

asked = []


class Client(ScriptedPlatform):
    def __init__(self, name="client", *, home="", env=None):
        super().__init__(name, tier="subscription", replies="from the client")

    @classmethod
    def probe(cls, home=""):
        asked.append(home)
        if home == "slow":
            RELEASED.wait()
        if home == "broken":
            raise OSError("no such thing")
        if home.startswith("together"):
            BARRIER.wait(timeout=2)
        if home == "none":
            return CliState(False, None, None, "client is not logged in. Run: client login")
        return CliState(True, "1.2.3", "a plan", "/usr/bin/client", "/usr/bin/client")


BARRIER = threading.Barrier(3)
RELEASED = threading.Event()
"""


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A third party's platform with a command-line client, installed beside the others."""
    package = tmp_path / "site"
    info = package / "a_client-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-client\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[orchestrai.platforms]\nclient = a_client:Client\n")
    (package / "a_client.py").write_text(CLIENT)
    monkeypatch.syspath_prepend(str(package))
    yield lambda: __import__("a_client").asked
    sys.modules.pop("a_client", None)


def test_a_third_partys_platform_may_be_given_by_its_kind(client):
    (finding,) = given(["client"])
    assert (finding.name, finding.why, finding.version) == ("client", "given", "1.2.3")


def test_a_client_tells_its_version_and_login(client):
    finding = discover({"mine": {"kind": "client", "home": "told"}})[0]
    assert (finding.name, finding.why, finding.version, finding.login) == ("mine", "settings", "1.2.3", "a plan")
    assert finding.platform is not None


def test_a_client_that_cannot_answer_is_not_found_and_says_what_to_do(client):
    finding = discover({"client": {"home": "none"}})[0]
    assert finding.platform is None
    assert finding.why == "client is not logged in. Run: client login"


def test_what_breaks_while_one_client_is_looked_for_hides_no_other(client):
    broken, whole = discover({"b": {"kind": "client", "home": "broken"}, "w": {"kind": "client", "home": "w"}})[:2]
    assert broken.platform is None
    assert "OSError: no such thing" in broken.why
    assert whole.platform is not None


def test_clients_are_asked_at_once(client):
    tables = {name: {"kind": "client", "home": f"together-{name}"} for name in "abc"}
    assert [f.platform is not None for f in discover(tables)[:3]] == [True] * 3  # they waited for each other


def test_a_client_that_does_not_tell_is_not_waited_for_and_stays_configured(client):
    finding = discover({"client": {"home": "slow"}})[0]  # it tells once it is released, below
    sys.modules["a_client"].RELEASED.set()
    assert (finding.platform is not None, finding.version) == (True, None)


def test_the_clients_of_two_accounts_are_two_clients_and_no_token_is_kept(client):
    for token in ("sk-first-canary", "sk-second-canary", "sk-first-canary"):
        discover({"client": {"home": Key(token)}})
    assert len(client()) == 2
    assert "canary" not in repr(discovery._known_states)


def test_a_client_that_answers_is_asked_once_and_one_that_is_missing_again(client):
    for home in ("known", "none", "known", "none"):
        discover({"client": {"home": home}})
    assert (client().count("known"), client().count("none")) == (1, 2)


def test_a_client_whose_login_is_given_by_its_environment_is_not_looked_at(client):
    finding = discover({"client": {"home": "none", "env": {"TOKEN": "x"}}})[0]
    assert finding.platform is not None
    assert client() == []


def test_a_platform_made_by_hand_asks_for_the_model_of_the_catalogue():
    for kind in ("gemini_cli", "claude_code", "chatgpt", "gemini", "openai", "anthropic"):
        assert from_table(kind, {}).platform.model == shipped().default_model(kind)
        assert _class_of(kind, shipped())().model == shipped().default_model(kind)
