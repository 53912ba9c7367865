"""A model behind a URL as the judge of answers that no rule can check."""

import hashlib
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vlm_rl.data.image_files import BadImage
from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.judge_cache import JudgeCache, key_of
from vlm_rl.rewards.judge_prompt import PATTERN, TEMPLATE, JudgePrompt
from vlm_rl.rewards.judging import Judgement, JudgingTerm
from vlm_rl.servers.chat_server import ChatServer, RequestRefused, ServerFailed, data_url, legal
from vlm_rl.show.log import Log
from vlm_rl.verification.extraction import after_thinking

_MEASURES = ("cached_frac", "tokens_in", "tokens_out", "retries", "cost", "latency_s")
_TRIAL = Problem("self test", "What is 1 + 1?", "2")
_logger = Log(__name__)


class JudgeQuestion(NamedTuple):
    """A question to the judge: of which problem, about which answer."""

    problem: Problem
    answer: str


@dataclass(frozen=True)
class Opinion:
    """What came of one question: a verdict, its value, and what it took. NaN is not known."""

    verdict: Verdict
    value: float = 0.0
    reason: str = ""
    cached_frac: float = math.nan
    tokens_in: float = math.nan
    tokens_out: float = math.nan
    retries: float = math.nan
    cost: float = math.nan
    latency_s: float = math.nan


class Judge(JudgingTerm):
    """What a model behind OpenAI's chat completions at `url` says of an answer, from 0 to 1.

    It is shown the question, the golds and what stands behind the thinking, by `template`, and with
    `send_images` the images. Of its reply the last line counts, by `pattern`: yes or no, or a score
    up to `highest_score`, right from `threshold` of it on. No answer is unparsable, without asking.

    A request that fails for good, after `max_retries`, or a reply that cannot be read has verdict
    error: not scored, counted, named in the log. The key is in the environment variable
    `key_variable`. Replies are kept in the folder `cache`, up to `cache_mib`. `price_in` and
    `price_out` are those of a million tokens, in any currency, of which `cost` is the metric.
    """

    def __init__(
        self,
        url: str,
        model: str,
        weight: float = 1.0,
        template: str = TEMPLATE,
        pattern: str = PATTERN,
        highest_score: float = 1.0,
        threshold: float = 0.5,
        send_images: bool = True,
        cache: str | None = None,
        cache_mib: int = 256,
        max_tokens: int = 512,
        temperature: float = 0.0,
        concurrent: int = 16,
        timeout_s: float = 60.0,
        max_retries: int = 4,
        key_variable: str = "OPENAI_API_KEY",
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        super().__init__(weight)
        for name, least, value in (
            ("cache_mib", 1, cache_mib),
            ("max_tokens", 1, max_tokens),
            ("temperature", 0, temperature),
            ("price_in", 0, price_in or 0),
            ("price_out", 0, price_out or 0),
        ):
            if not least <= value < math.inf:
                raise ValueError(f"Judge.{name} must be at least {least}, got {value}")
        if (price_in is None) != (price_out is None):
            raise ValueError("Judge.price_in and Judge.price_out go together; set both, or none")
        self.model = model
        self._prompt = JudgePrompt(template, pattern, highest_score, threshold)
        self._server = ChatServer(
            url,
            concurrent=concurrent,
            timeout_s=timeout_s,
            max_retries=max_retries,
            key_variable=key_variable,
        )
        self._send_images = send_images
        self._how = {"max_tokens": max_tokens, "temperature": temperature}
        self._prices = None if price_in is None or price_out is None else (price_in, price_out)
        self._cache = JudgeCache(None if cache is None else Path(cache), cache_mib * 2**20)

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        """Ask about each answer; equal answers to a problem are asked about once."""
        answers = [[after_thinking(c.text).strip() for c in group] for group in groups]
        distinct: dict[tuple[int, str], JudgeQuestion] = {}
        for number, (problem, row) in enumerate(zip(problems, answers, strict=True)):
            distinct |= {
                (number, answer): JudgeQuestion(problem, answer) for answer in row if answer
            }
        with ThreadPoolExecutor(self._server.concurrent, "judge") as threads:
            found = threads.map(self._opinion, distinct.values())
            opinions = dict(zip(distinct, found, strict=True))
        self._log_failures(distinct, opinions)
        rows = [
            [
                _of(opinions.get((number, answer)), answer in row[:place])
                for place, answer in enumerate(row)
            ]
            for number, row in enumerate(answers)
        ]
        return Judgement(
            values=_tensor([[one.value for one in row] for row in rows]),
            verdicts=[[one.verdict for one in row] for row in rows],
            measures={
                name: _tensor([[getattr(one, name) for one in row] for row in rows])
                for name in _MEASURES
            },
        )

    def self_test(self) -> None:
        """Ask one question. Raises RuntimeError if nothing answers, or a reply has no verdict."""
        opinion = self._opinion(JudgeQuestion(_TRIAL, "2"))
        if not opinion.verdict.scored:
            raise RuntimeError(
                f"the judge {self.model} at {self._server.url} does not judge: {opinion.reason}; "
                "start it, or mend the url, template or pattern of the Judge"
            )

    def _opinion(self, asked: JudgeQuestion) -> Opinion:
        text = legal(self._prompt.text(*asked))
        try:
            images = [data_url(one) for one in asked.problem.images] if self._send_images else []
        except BadImage as error:
            return Opinion(Verdict.ERROR, reason=str(error))
        digests = [hashlib.sha256(image.encode()).hexdigest() for image in images]
        key = key_of({"model": self.model, "text": text, "images": digests, **self._how})
        kept = self._cache.get(key)
        if kept is not None and isinstance(kept.get("reply"), str):
            return self._read(kept["reply"], Opinion(Verdict.ERROR, cached_frac=1.0, cost=0.0))
        began = time.monotonic()
        try:
            reply = self._server.ask(self._request(text, images))
        except (ServerFailed, RequestRefused) as error:
            return Opinion(Verdict.ERROR, reason=str(error), cached_frac=0.0)
        used = Opinion(
            Verdict.ERROR,
            cached_frac=0.0,
            tokens_in=_or_nan(reply.tokens_in),
            tokens_out=_or_nan(reply.tokens_out),
            retries=reply.retries,
            cost=self._cost(reply.tokens_in, reply.tokens_out),
            latency_s=time.monotonic() - began,
        )
        opinion = self._read(reply.text, used)
        if opinion.verdict.scored:  # the rest may go better another time
            self._cache.put(key, {"reply": reply.text})
        return opinion

    def _read(self, reply: str, used: Opinion) -> Opinion:
        grade = self._prompt.grade(reply)
        if grade is None:
            reason = f"the last line of its reply has no verdict: {reply[-200:]!r}"
            return Opinion(**vars(used) | {"reason": reason})
        verdict = Verdict.CORRECT if grade.is_right else Verdict.WRONG
        return Opinion(**vars(used) | {"verdict": verdict, "value": grade.value})

    def _request(self, text: str, images: Sequence[str]) -> dict[str, Any]:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": image}} for image in images
        ]
        content.append({"type": "text", "text": text})
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, **self._how}

    def _cost(self, tokens_in: int | None, tokens_out: int | None) -> float:
        if self._prices is None or tokens_in is None or tokens_out is None:
            return math.nan
        return (tokens_in * self._prices[0] + tokens_out * self._prices[1]) / 1e6

    def _log_failures(
        self, asked: dict[tuple[int, str], JudgeQuestion], opinions: dict[tuple[int, str], Opinion]
    ) -> None:
        for place, opinion in opinions.items():
            if not opinion.verdict.scored:
                self.last_failure = f": {opinion.reason:.200}"
                _logger.warning(
                    "problem %r: the judge %s did not judge %.100r: %s",
                    *(asked[place].problem.uid, self.model, asked[place].answer, opinion.reason),
                )


def _of(opinion: Opinion | None, is_repeated: bool) -> Opinion:
    """Return what a completion gets: without an answer nothing; the first alone what it took."""
    if opinion is None:
        return Opinion(Verdict.UNPARSABLE)
    if not is_repeated:
        return opinion
    return Opinion(opinion.verdict, opinion.value, opinion.reason, cached_frac=1.0, cost=0.0)


def _or_nan(count: int | None) -> float:
    return math.nan if count is None else float(count)


def _tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)
