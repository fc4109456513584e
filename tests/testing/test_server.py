"""The provider on loopback: deterministic, honest in its bill, and as faulty as it is told."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import jsonschema
import pytest

from orchestrai.testing import Answer, Chances, Fault, Latency, Limits, ProviderServer, SpawnedServer, read_bill
from orchestrai.testing.answers import answer_to, instance_of

KEY = "sk-server-0123456789abcdef"


def ask(server, prompt="hello", *, connection=None, headers=None, **fields):
    own = connection or http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=20)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **fields})
    try:
        own.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **(headers or {})})
        reply = own.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        if connection is None:
            own.close()


def text(reply):
    return json.loads(reply[2])["choices"][0]["message"]["content"]


class TestAnswers:
    def test_equal_requests_get_equal_replies_in_every_server(self):
        replies = []
        for _ in range(2):
            with ProviderServer() as server:
                replies.append(ask(server)[2])
        assert replies[0] == replies[1]
        assert json.loads(replies[0])["usage"]["total_tokens"] > 0

    def test_the_answer_depends_on_the_prompt(self):
        with ProviderServer() as server:
            assert text(ask(server, "a")) == answer_to("a") != text(ask(server, "b")) == answer_to("b")

    def test_replies_by_text_mapping_and_function(self):
        with ProviderServer(replies="same") as server:
            assert text(ask(server)) == "same"
        with ProviderServer(replies={"^a": "letter", r"\d": Answer("number", model="other")}) as server:
            assert text(ask(server, "abc")) == "letter"
            assert json.loads(ask(server, "x 7")[2])["model"] == "other"
            assert text(ask(server, "-")) == answer_to("-")
        with ProviderServer(replies=lambda received: f"{received.number}:{received.attempt}") as server:
            assert [text(ask(server, p)) for p in "aba"] == ["0:0", "1:0", "2:1"]

    def test_the_last_user_message_is_the_prompt(self):
        messages = [
            {"role": "user", "content": "first"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "x"},
        ]
        with ProviderServer() as server:
            ask(server, messages=messages)
            assert server.prompts == ["a\nb"]

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"const": "x"}}, "required": ["a", "b"]},
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 4}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {"type": "number", "exclusiveMinimum": 0.1, "maximum": 0.2}}},
            {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 7, "minimum": 8}}},
            {"type": "object", "properties": {"a": {"type": "integer", "exclusiveMaximum": -4}}},
            {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 4},
            {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2},
            {"type": "string", "minLength": 30, "maxLength": 31},
            {"type": "string", "maxLength": 2},
            {"type": ["null", "string"]},
            {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/X"}], "$defs": {"X": {"type": "string"}}},
            {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}], "type": "object"},
            {
                "$ref": "#/$defs/Tree",
                "$defs": {
                    "Tree": {
                        "type": "object",
                        "properties": {"left": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}},
                        "required": ["left"],
                    }
                },
            },
        ],
    )
    def test_a_schema_is_answered_by_what_validates(self, schema):
        for prompt in "abcdefgh":
            jsonschema.validate(instance_of(schema, prompt), schema)
        constraint = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with ProviderServer() as server:
            jsonschema.validate(json.loads(text(ask(server, response_format=constraint))), schema)

    def test_streams_end_with_usage_when_it_is_asked_for(self):
        with ProviderServer(replies="one two") as server:
            raw = ask(server, stream=True, stream_options={"include_usage": True})[2].decode()
            assert "usage" in raw.split("data: ")[-2]
            events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
            assert events[-1]["choices"] == []
            assert raw.endswith("data: [DONE]\n\n")
            plain = ask(server, stream=True)[2].decode()
            assert '"prompt_tokens"' not in plain


class TestHttp:
    def test_one_connection_serves_many_requests(self):
        with ProviderServer() as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            for number in range(5):
                assert text(ask(server, str(number), connection=connection)) == answer_to(str(number))
            connection.close()
            assert server.stats()["connections"] == 1

    def test_requests_arrive_whole_however_they_are_cut(self):
        body = json.dumps({"messages": [{"role": "user", "content": "é" * 50}]}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        chunks = b"%x;note\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
        chunked = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        for raw in (head + body, chunked, head + body + chunked):
            with ProviderServer() as server, socket.create_connection(("127.0.0.1", server.port)) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(0, len(raw), 37):
                    client.sendall(raw[at : at + 37])
                expected = raw.count(b"POST ")
                server.wait_for(lambda: len(server.requests) == expected)  # noqa: B023  # waited for in this round
                assert {received.body for received in server.requests} == {body}

    def test_what_is_asked_wrongly_is_refused_and_counted(self):
        with ProviderServer(api_key=KEY) as server:
            assert ask(server)[0] == 401
            assert ask(server, headers={"Authorization": f"Bearer {KEY}"})[0] == 200
            assert ask(server, headers={"x-api-key": KEY})[0] == 200
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            for path, body in (
                ("/v1/chat/completions", "no json"),
                ("/v1/chat/completions", "[]"),
                ("/elsewhere", "{}"),
            ):
                connection.request("POST", path, body)
                reply = connection.getresponse()
                reply.read()
                assert reply.status in (400, 404)
            connection.close()
            assert server.stats()["refused"] == 4
            assert server.in_flight == 0

    def test_the_counters_can_be_read_over_http(self):
        with ProviderServer() as server:
            ask(server)
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            connection.request("GET", "/_stats")
            stats = json.loads(connection.getresponse().read())
            connection.close()
        assert (stats["requests"], stats["answered"], stats["in_flight"]) == (1, 1, 0)
        assert stats["billed_tokens"] > 0

    def test_a_port_in_use_is_told(self):
        with ProviderServer() as server, pytest.raises(OSError, match="cannot listen at port"):
            ProviderServer(port=server.port).__enter__()


class TestScripts:
    def test_a_list_goes_by_request(self):
        with ProviderServer(script=[None, 500, "429:7"]) as server:
            replies = [ask(server, "same") for _ in range(4)]
        assert [status for status, _, _ in replies] == [200, 500, 429, 200]
        assert replies[2][1]["retry-after"] == "7"

    def test_a_mapping_goes_by_prompt_and_its_lists_by_attempt(self):
        with ProviderServer(script={"poison": [500, 503], "never": 402}) as server:
            assert [ask(server, "poison 1")[0] for _ in range(3)] == [500, 503, 200]
            assert [ask(server, "poison 2")[0] for _ in range(3)] == [500, 503, 200]
            assert [ask(server, "never")[0] for _ in range(3)] == [402, 402, 402]
            assert ask(server, "well")[0] == 200

    def test_a_function_decides_by_the_request(self):
        def script(received):
            return Fault("status", 418, headers={"x-why": "tea"}) if received.json["model"] == "pot" else None

        with ProviderServer(script=script) as server:
            status, headers, _ = ask(server, model="pot")
            assert (status, headers["x-why"]) == (418, "tea")
            assert ask(server)[0] == 200

    def test_chances_depend_on_prompt_and_attempt_and_on_nothing_else(self):
        chances = Chances({"500": 0.2, "429": 0.1, "cut_body": 0.05}, seed=3)
        first = {(p, a): chances.step(f"prompt {p}", a) for p in range(2_000) for a in range(2)}
        again = {(p, a): chances.step(f"prompt {p}", a) for a in (1, 0) for p in reversed(range(2_000))}
        assert first == again
        share = Counter(first.values())
        assert 0.17 < share["500"] / 4_000 < 0.23
        assert 0.08 < share["429"] / 4_000 < 0.12
        assert 0.035 < share["cut_body"] / 4_000 < 0.065
        other = Chances(chances.of, seed=4)
        assert first != {(p, a): other.step(f"prompt {p}", a) for p, a in first}

    @pytest.mark.parametrize("script", [["cut_boddy"], {"x": ["hangs"]}, {"x": "resett"}, Chances({"gzip": 0.1})])
    def test_a_slip_in_a_script_is_told_when_it_is_written(self, script):
        with pytest.raises(ValueError, match="unknown fault"):
            ProviderServer(script=script)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ("cut_body", http.client.IncompleteRead),
            ("reset", ConnectionResetError),
            ("malformed", json.JSONDecodeError),
            ("empty", json.JSONDecodeError),
            ("gzip_bomb", UnicodeDecodeError),
            ("wrong_charset", UnicodeDecodeError),
        ],
    )
    def test_each_fault_is_what_it_says(self, fault, error):
        with ProviderServer(script=[fault]) as server:
            with pytest.raises(error):
                text(ask(server))
            assert text(ask(server)) == answer_to("hello")
            billed = server.requests[0].billed_tokens > 0
            assert billed is (fault != "reset"), "what was answered badly was answered"

    def test_a_slow_answer_is_an_answer_and_a_hang_ends_with_its_client(self):
        with ProviderServer(script={"slow": "slow:0.2", "hang": "hang"}) as server:
            began = time.monotonic()
            assert text(ask(server, "slow")) == answer_to("slow")
            assert time.monotonic() - began >= 0.2
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                body = b'{"messages":[{"role":"user","content":"hang"}]}'
                client.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                server.wait_for(lambda: server.in_flight == 1)
            server.wait_for(lambda: server.in_flight == 0)
            assert server.requests[-1].outcome == "abandoned"
            assert server.most_in_flight == 1

    def test_a_redirect_names_its_place(self):
        with ProviderServer(script=[Fault("redirect", location="http://127.0.0.1:1/x")]) as server:
            status, headers, _ = ask(server)
        assert (status, headers["location"]) == (307, "http://127.0.0.1:1/x")


class TestLimitsAndLatency:
    def test_a_full_bucket_lets_its_burst_pass_and_tells_the_wait(self):
        with ProviderServer(limits=Limits(rpm=60, burst_s=5)) as server:
            replies = [ask(server, str(i)) for i in range(7)]
            assert [status for status, _, _ in replies][:5] == [200] * 5
            assert replies[-1][0] == 429
            headers = replies[-1][1]
            assert 1 <= int(headers["retry-after"]) <= 2
            assert 0 < int(headers["retry-after-ms"]) <= 2_000
            assert headers["x-ratelimit-limit-requests"] == "60"
            assert headers["x-ratelimit-remaining-requests"] == "0"
            assert headers["x-ratelimit-reset-requests"].endswith("s")
            assert server.stats()["limited"] >= 1
            assert server.requests[-1].billed_tokens == 0

    def test_tokens_are_limited_by_their_own_bucket(self):
        with ProviderServer(limits=Limits(tpm=6_000, burst_s=1)) as server:
            assert ask(server, "x" * 380)[0] == 200
            status, headers, _ = ask(server, "x" * 380)
        assert status == 429
        assert headers["x-ratelimit-limit-tokens"] == "6000"
        assert "x-ratelimit-limit-requests" not in headers

    def test_latencies_are_reproducible_and_as_wide_as_they_say(self):
        latency = Latency.of("lognormal:0.1:0.5", seed=1)
        drawn = sorted(latency.seconds(f"p{i}", 0) for i in range(4_001))
        assert drawn == sorted(latency.seconds(f"p{i}", 0) for i in range(4_001))
        assert 0.095 < drawn[2_000] < 0.105
        assert 1.55 < drawn[int(4_001 * 0.8413)] / drawn[2_000] < 1.75, "one sigma is e to the 0.5"
        assert Latency.of(0.05).seconds("x", 0) == Latency.of("0.05").seconds("y", 3) == 0.05
        with pytest.raises(ValueError, match="could not convert"):
            Latency.of("quick")


class TestBill:
    def test_every_request_is_on_the_bill_before_its_reply(self, tmp_path):
        path = tmp_path / "bill"
        with ProviderServer(bill=path, script={"bad": 500, "cut": "cut_body"}) as server:
            for prompt in ("good", "bad", "cut", "good"):
                with contextlib.suppress(http.client.IncompleteRead):
                    ask(server, prompt)
                assert read_bill(path)[-1]["prompt"] == prompt
            lines = read_bill(path)
            assert [line["outcome"] for line in lines] == ["answered", "fault", "fault", "answered"]
            assert [line["attempt"] for line in lines] == [0, 0, 0, 1]
            assert [line["billed_tokens"] > 0 for line in lines] == [True, False, True, True]
            assert sum(line["billed_tokens"] for line in lines) == server.stats()["billed_tokens"]
            assert lines[0]["billed_tokens"] == lines[0]["input_tokens"] + lines[0]["output_tokens"]

    def test_an_answer_nobody_waited_for_is_billed_all_the_same(self, tmp_path):
        path = tmp_path / "bill"
        with ProviderServer(bill=path, latency=0.2) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                body = b'{"messages":[{"role":"user","content":"left"}]}'
                client.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                server.wait_for(lambda: server.in_flight == 1)
            server.wait_for(lambda: server.in_flight == 0)
            (line,) = read_bill(path)
        assert (line["outcome"], line["billed_tokens"] > 0) == ("abandoned", True)

    def test_two_servers_may_write_one_bill(self, tmp_path):
        path = tmp_path / "bill"
        with ProviderServer(bill=path) as one, ProviderServer(bill=path) as two:
            for number in range(20):
                ask(one if number % 2 else two, str(number))
        assert sorted(int(line["prompt"]) for line in read_bill(path)) == list(range(20))
        assert path.stat().st_mode & 0o777 == 0o600


class TestOwnProcess:
    def test_it_serves_counts_and_ends(self, tmp_path):
        path = tmp_path / "bill"
        faults = json.dumps({"500": 1.0})
        with SpawnedServer("--latency", "lognormal:0.001", "--bill", str(path), "--rpm", "60000") as server:
            assert text(ask(server)) == answer_to("hello")
            assert server.stats()["answered"] == 1
            assert len(read_bill(path)) == 1
            pid = server.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with SpawnedServer("--faults", faults) as server:
            assert ask(server)[0] == 500
        with SpawnedServer("--script", '{"x": [429, null]}', "--reply", "fixed") as server:
            assert [ask(server, "x")[0] for _ in range(2)] == [429, 200]
            assert text(ask(server, "y")) == "fixed"

    def test_it_dies_with_a_parent_that_is_killed(self):
        program = """
import sys
from orchestrai.testing import SpawnedServer
with SpawnedServer() as server:
    print(server.pid, server.url, flush=True)
    sys.stdin.read()
"""
        parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pid, url = parent.stdout.readline().decode().split()
        port = int(url.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port)).close()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdin.close()
        parent.stdout.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionError:
                break
            time.sleep(0.02)
        else:
            os.kill(int(pid), signal.SIGKILL)
            pytest.fail("the server outlived its parent")

    def test_wrong_options_are_told(self, capfd):
        with pytest.raises(OSError, match="did not start"):
            SpawnedServer("--latency", "quick").__enter__()
        assert "quick" in capfd.readouterr().err
