"""A model behind a chat server, and vLLM in process, answer as the transformers engine does.

The server is vLLM's own, on the shipped tiny policy. Tests that need it are skipped
if vLLM is not installed.

Broken on purpose, one at a time, each seen red:
    images not sent, one refused problem ends all -> server; the same seed for every sample,
        temperature or top_k not sent -> sampler; a server's error as a traceback -> goes away
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import evaluation_helpers as helpers
from tests.support.evaluation_helpers import BROKEN, TOO_LONG, lines, run
from tests.support.vllm_chat import vllm_chat_server
from tests.support.vllm_setup import MISSING
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.evaluation.responders import ChatResponder
from vlm_rl.rollout import Sampling
from vlm_rl.servers.chat_server import ChatServer

NUM_ROWS = 6
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason=MISSING)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mathvision")
    return helpers.write(folder, [*helpers.rows(NUM_ROWS), *helpers.unanswerable()])


@pytest.fixture(scope="module")
def own(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Responses of the transformers engine."""
    return responses_of(run(data, tmp_path_factory.mktemp("transformers")))


def responses_of(output: Path) -> list[dict[str, object]]:
    return lines(output / "mathvision" / "responses.jsonl")


@needs_vllm
@pytest.mark.long
def test_vllm_in_process_answers_as_the_transformers_engine(
    data: Path, own: list[dict[str, object]], tmp_path: Path
) -> None:
    changes = {"engine": "vlm_rl.rollout.VLLMEngine", "engine.kv_cache_gib": 1 / 16}
    changes |= {"engine.max_concurrent": 16, "engine.precision": "float32"}
    assert responses_of(run(data, tmp_path, **changes)) == own


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a vLLM server that serves the tiny policy as `tiny`."""
    with vllm_chat_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@needs_vllm
@pytest.mark.long
def test_server_answers_as_the_transformers_engine(
    url: str, data: Path, own: list[dict[str, object]], tmp_path: Path
) -> None:
    """Texts, lengths and ends alike: so the images arrived. Its name is asked for."""
    changes = {"engine": "vlm_rl.evaluation.ChatServer", "engine.url": url, "model": None}
    responses = responses_of(run(data, tmp_path, **changes))
    for theirs, ours in zip(responses, own, strict=True):
        if ours["refused"] is None:
            assert theirs == ours
    refused = {row["uid"]: row["refused"] for row in responses if row["refused"] is not None}
    assert refused.keys() == {TOO_LONG, BROKEN}


def responder(url: str, **sampling: float) -> ChatResponder:
    how = Sampling(max_completion_tokens=16, allow_undescribed=("top_k",), **sampling)  # type: ignore[arg-type]
    return ChatResponder(ChatServer(url), "tiny", instruction="", system=None, sampling=how)


@needs_vllm
@pytest.mark.long
def test_sampler_and_seed_arrive(url: str, data: Path) -> None:
    problems = load(BENCHMARKS["mathvision"], str(data))[:NUM_ROWS]

    def texts(seed: int, **sampling: float) -> list[list[str]]:
        groups = responder(url, **sampling).respond(problems, samples=3, seed=seed)
        return [[response.text for response in group] for group in groups]

    drawn = texts(5, temperature=2.0)
    assert drawn == texts(5, temperature=2.0)
    assert drawn != texts(50, temperature=2.0)
    assert any(len(set(group)) == 3 for group in drawn)
    greedy = texts(5, temperature=0.0)
    assert all(len(set(group)) == 1 for group in greedy)
    assert texts(5, temperature=2.0, top_k=1) == greedy  # a field that is not OpenAI's


def test_server_that_goes_away_ends_with_status_3_and_what_to_do(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"engine": "vlm_rl.evaluation.ChatServer", "engine.url": "http://127.0.0.1:9/v1"}
    with pytest.raises(SystemExit) as ended:
        run(data, tmp_path, **changes, **{"engine.max_retries": 0, "model": "tiny"})
    assert ended.value.code == 3
    error = capsys.readouterr().err.strip()
    assert "http://127.0.0.1:9/v1: Connection error" in error
    assert "run the same command to resume" in error
    assert "\n" not in error
