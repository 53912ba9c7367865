"""A server that is not vLLM, or lies: one line with its address, what it sent and the rule.

Broken on purpose, one at a time, each seen red: redirects followed; no limit of size; the limit of
time that of the socket; types not strict; the vocabulary not compared; the secret not sent.
"""

import itertools
import re
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from tests.support.false_server import Answer, FalseServer, false_server, of_json, raw
from tests.support.run_helpers import command
from vlm_rl.fit import fit
from vlm_rl.rollout.faults import EngineError, EngineFault, EngineMismatch
from vlm_rl.rollout.vllm import gate
from vlm_rl.rollout.vllm.client import Http, Silence
from vlm_rl.rollout.vllm.replies import Emptied, Generated, ServerInfo, WorldSize

TOKEN = "t" * 32
CHOICE = {
    "token_ids": [3, 4],
    "logprobs": {"content": [{"logprob": -1.0, "token": "a"}, {"logprob": -2, "token": "b"}]},
    "finish_reason": "stop",
    "index": 0,
}
GOOD = {"prompt_token_ids": [1, 2], "choices": [CHOICE], "request_id": "r"}


def spoilt(**changes: Any) -> Answer:
    """Answer with `GOOD` but for these fields of its choice."""
    return of_json(GOOD | {"choices": [CHOICE | changes]})


def without(name: str) -> Answer:
    return of_json(GOOD | {"choices": [{k: v for k, v in CHOICE.items() if k != name}]})


ANSWERS: dict[str, tuple[Answer, str]] = {
    "text": (raw(b"<html>It works!</html>"), r"must be JSON, got '<html>It works!</html>'"),
    "nothing": (raw(b""), "must be JSON, got ''"),
    "binary": (raw(bytes(range(256))), "must be JSON, got"),
    "half": (raw(b'{"prompt_token_ids": [1, 2'), "must be JSON"),
    "terminal": (raw(b"\x1b[2J\x1b]0;gotcha\x07"), r"must be JSON, got '\[2J \]0;gotcha'"),
    "deep": (raw(b"[" * 100_000), "must be JSON"),
    "digits": (raw(b'{"choices": ' + b"9" * 10_000 + b"}"), "answer "),
    "list": (of_json([GOOD]), "the answer is wrong: input should be an object, got"),
    "null": (of_json(None), "got None"),
    "no ids": (without("token_ids"), r"lacks the field choices\.0\.token_ids"),
    "no log-probs": (without("logprobs"), r"lacks the field choices\.0\.logprobs"),
    "no reason": (without("finish_reason"), r"lacks the field choices\.0\.finish_reason"),
    "no prompt": (of_json({"choices": []}), "lacks the field prompt_token_ids"),
    "ids are text": (spoilt(token_ids="3 4"), r"choices\.0\.token_ids: .* valid array, got '3 4'"),
    "id is text": (spoilt(token_ids=["3"]), r"token_ids\.0: .* valid integer, got '3'"),
    "id is a fraction": (spoilt(token_ids=[3.5]), r"token_ids\.0: .* integer"),
    "id is true": (spoilt(token_ids=[True]), r"token_ids\.0: .* valid integer, got True"),
    "log-prob is text": (
        spoilt(logprobs={"content": [{"logprob": "-1"}]}),
        r"logprobs\.content\.0\.logprob: .* valid number, got '-1'",
    ),
    "reason is a number": (spoilt(finish_reason=1), r"finish_reason: .* valid string, got 1"),
    "cut": (lambda: [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"], "does not answer"),
    "not HTTP": (lambda: [b"220 mail.example ESMTP\r\n"], "does not answer"),
    "hangs up": (lambda: [], "does not answer"),
    "bad gzip": (raw(b"{}", content_encoding="gzip"), "does not answer"),
    "many headers": (
        lambda: [b"HTTP/1.1 200 OK\r\n", *(b"a: b\r\n" for _ in range(1000)), b"\r\n"],
        "does not answer",
    ),
    "long header": (lambda: [b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000], "does not answer"),
    "404": (raw(b"no such page", "404 Not Found"), "must answer status 200, got 404: no such page"),
    "204": (lambda: [b"HTTP/1.1 204 No Content\r\n\r\n"], "must answer status 200, got 204"),
    "502": (of_json({"error": {"message": "up\nstream"}}, "502 Bad"), "got 502: up stream"),
    "huge error": (raw(b"x" * 100_000, "500 Oh"), r"got 500: x{1000}\.\.\.$"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_false_answer_is_a_fault_with_address_and_rule(kind: str) -> None:
    answer, words = ANSWERS[kind]
    with false_server(**{"inference/v1/generate": answer}) as server:
        http = Http(server.url, 5.0, TOKEN)
        with pytest.raises(EngineFault) as raised:
            http.ask("inference/v1/generate", Generated, {}, patient=True)
    line = str(raised.value)
    assert re.search(words, line), line
    assert line.startswith(f"{server.url}/inference/v1/generate")
    assert "\n" not in line
    assert "\x1b" not in line


def test_good_answer_is_read_and_the_secret_sent() -> None:
    with false_server(**{"inference/v1/generate": of_json(GOOD)}) as server:
        http = Http(server.url, 5.0, TOKEN)
        answer = http.ask("inference/v1/generate", Generated, {}, patient=True)
    assert answer.choices[0].token_ids == [3, 4]
    assert [token.logprob for token in answer.choices[0].logprobs.content] == [-1.0, -2.0]  # type: ignore[union-attr]
    assert f"Authorization: Bearer {TOKEN}" in server.seen[0]


@pytest.mark.parametrize("status", ["301 Moved", "307 Temporary", "304 Not Modified"])
def test_redirect_is_refused_and_not_followed(status: str) -> None:
    with false_server(target=of_json({"world_size": 1})) as server:
        server.answers["get_world_size"] = raw(b"", status, location=f"{server.url}/target")
        server.answers["health"] = server.answers["get_world_size"]
        http = Http(server.url, 5.0, TOKEN)
        for call in (lambda: http.get("get_world_size", WorldSize), http.healthy):
            with pytest.raises(
                EngineMismatch, match=r"must answer itself, got status 30\d to http"
            ):
                call()
        assert not [head for head in server.seen if "/target" in head]


@pytest.mark.parametrize("patient", [True, False])
def test_endless_answer_has_a_limit_of_size(patient: bool) -> None:
    with false_server() as server:
        server.answers["reset_prefix_cache"] = server.endless
        http = Http(server.url, 60.0, TOKEN)
        with pytest.raises(EngineFault, match="must answer with at most 300000 bytes, sent more"):
            http.ask("reset_prefix_cache", Emptied, patient=patient, most_bytes=300_000)


@pytest.mark.parametrize("way", ["drip", "silent"])
def test_answer_that_drips_or_never_comes_has_a_limit_of_time(way: str) -> None:
    with false_server() as server:
        slow = getattr(server, way)
        server.answers |= dict.fromkeys(["get_world_size", "start_weight_update"], slow)
        http = Http(server.url, 0.5, TOKEN)
        with pytest.raises(EngineFault, match=r"get_world_size (gives no whole|does not) answer"):
            http.get("get_world_size", WorldSize)
        with pytest.raises(EngineFault, match=r"start_weight_update (gives no whole|does not) ans"):
            http.start_weight_update()


@pytest.mark.parametrize("metrics", ["drip", "endless", "text", "nan"])
def test_server_whose_requests_drip_counts_as_silent(metrics: str) -> None:
    """Whatever its metrics are."""
    texts = {"text": b"vllm:prompt_tokens_total many", "nan": b"vllm:prompt_tokens_total nan"}
    with false_server() as server:
        text = texts.get(metrics)
        server.answers["metrics"] = getattr(server, metrics) if text is None else raw(text)
        silence = Silence(Http(server.url, 0.5, TOKEN), 0.2, lambda: [])
        with pytest.raises(EngineFault, match=rf"{server.url} has done nothing for 0.2 s"):
            deque(silence.check() for _ in itertools.count())


def test_server_info_of_another_program_is_named() -> None:
    info = {"vllm_config": {"model_config": {"dtype": "float32"}, "weight_transfer_config": None}}
    with false_server(server_info=of_json(info)) as server:
        http = Http(server.url, 5.0, TOKEN)
        with pytest.raises(EngineFault, match=r"server_info: .*\.model_config\.logprobs_mode"):
            http.get("server_info?config_format=json", ServerInfo, needed=True)


def test_refusal_of_the_secret_says_what_to_set() -> None:
    with false_server(get_world_size=raw(b"", "401 Unauthorized")) as server:
        http = Http(server.url, 5.0, TOKEN)
        with pytest.raises(EngineMismatch, match="VLM_RL_SERVER_TOKEN; set the same in both"):
            http.get("get_world_size", WorldSize)


def test_complaint_of_the_weight_stream_stays_a_mismatch() -> None:
    body = {"error": {"message": "boom: weight stream: a.b does not fit"}}
    with false_server(update_weights=of_json(body, "500 Oh")) as server:
        with pytest.raises(EngineMismatch, match=r"^a\.b does not fit$"):
            Http(server.url, 5.0, TOKEN).update_weights_chunk({})
        server.answers["update_weights"] = of_json({"error": "no room"}, "400 Bad")
        with pytest.raises(EngineError, match="vLLM refuses: no room"):
            Http(server.url, 5.0, TOKEN).update_weights_chunk({})


def fit_against(server: FalseServer, argv: list[str]) -> int:
    with pytest.raises(SystemExit) as raised:
        fit([*argv, f"--engine.init_args.url={server.url}", "--engine.init_args.max_restarts=0"])
    return int(str(raised.value.code))


def test_run_against_a_false_server_ends_with_one_line_and_status_3(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("vllm")  # the trainer's side asks for it too
    engine = {"engine": "vlm_rl.rollout.VLLMServer", "data.val_problems": 1}
    argv = command(policy_folder, data_folder, tmp_path / "run", **engine)
    monkeypatch.delenv(gate.VARIABLE, raising=False)
    with false_server(server_info=raw(b"<html>It works!</html>")) as server:
        assert fit_against(server, argv) == 2
        [line] = re.findall(r"^vlm_rl\.fit: .*$", capfd.readouterr().err, re.MULTILINE)
        assert "VLM_RL_SERVER_TOKEN is not set" in line
        monkeypatch.setenv(gate.VARIABLE, TOKEN)
        assert fit_against(server, argv) == 3
    err = capfd.readouterr().err
    [line] = re.findall(r"^vlm_rl\.fit: .*$", err, re.MULTILINE)
    assert f"{server.url}/server_info: the answer must be JSON, got '<html>It works!" in line
    assert "Traceback" not in err
