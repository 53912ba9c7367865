"""Answer the problems of an evaluation: by a policy in an engine, or by a chat server."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_rl.data.image_files import BadImage
from vlm_rl.data.prompts import BadProblem, PromptEncoder, PromptTooLong, TemplateArg, text_parts
from vlm_rl.evaluation.benchmarks.benchmark import Response
from vlm_rl.records import Completion, Groups, Problem, Prompt
from vlm_rl.rollout import Engine, EngineError, Sampling, contract
from vlm_rl.rollout.sampling import WHOLE_SOFTMAX
from vlm_rl.servers.chat_server import ChatServer, RequestRefused, ServerFailed, data_url

_OF_OPENAI = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


class Responder(ABC):
    """Answers problems."""

    @abstractmethod
    def respond(
        self, problems: Sequence[Problem], *, samples: int, seed: int
    ) -> list[list[Response]]:
        """Return responses [P][samples]; those to a problem that cannot be asked say why.

        Raises EngineError if the engine or server fails.
        """


class PolicyResponder(Responder):
    """A started engine; `encoder` makes the prompts, `allowed` are tokens of the policy."""

    def __init__(
        self,
        engine: Engine,
        allowed: contract.AllowedTokens,
        encoder: PromptEncoder,
        sampling: Sampling,
    ) -> None:
        self._engine = engine
        self._allowed = allowed
        self._encoder = encoder
        self._sampling = sampling

    def respond(
        self, problems: Sequence[Problem], *, samples: int, seed: int
    ) -> list[list[Response]]:
        encoded = EncodedProblems.of(problems, self._encoder)
        if not encoded.prompts:
            return encoded.responses([], samples)
        groups = contract.sample(
            self._engine,
            self._allowed,
            encoded.prompts,
            group_size=samples,
            sampling=self._sampling,
            seed=seed,
        )
        return encoded.responses(groups, samples)


@dataclass(frozen=True)
class EncodedProblems:
    """Problems and their prompts; `refused` says, by uid, why a problem has none."""

    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    refused: Mapping[str, str]

    @classmethod
    def of(cls, problems: Sequence[Problem], encoder: PromptEncoder) -> "EncodedProblems":
        prompts, refused = [], {}
        for problem in problems:
            try:
                prompts.append(encoder.encode(problem))
            except (BadProblem, PromptTooLong) as error:
                refused[problem.uid] = str(error)
        return cls(problems, prompts, refused)

    def responses(self, groups: Groups, samples: int) -> list[list[Response]]:
        """Return responses [P][samples]; `groups` are the completions of the prompts."""
        completions = iter(groups)
        return [
            [Response(p.uid, sample, "", refused=self.refused[p.uid]) for sample in range(samples)]
            if p.uid in self.refused
            else [
                _response_of(p, sample, completion)
                for sample, completion in enumerate(next(completions))
            ]
            for p in self.problems
        ]


def _response_of(problem: Problem, sample: int, completion: Completion) -> Response:
    return Response(
        problem.uid,
        sample,
        completion.text,
        len(completion),
        completion.truncated,
        thinking_tokens=completion.thinking_tokens,
    )


class ChatResponder(Responder):
    """A server's model, asked with the text and the images of each problem."""

    def __init__(
        self,
        server: ChatServer,
        model: str,
        *,
        instruction: str,
        system: str | None,
        template_args: Mapping[str, TemplateArg] | None = None,
        sampling: Sampling,
    ) -> None:
        self._server = server
        self._model = model
        self._instruction = instruction
        self._system = system
        self._template_args = template_args
        self._sampling = sampling

    def respond(
        self, problems: Sequence[Problem], *, samples: int, seed: int
    ) -> list[list[Response]]:
        asked = [(problem, sample) for problem in problems for sample in range(samples)]
        with ThreadPoolExecutor(self._server.concurrent) as threads:
            flat = list(
                threads.map(
                    self._response, *zip(*asked, strict=True), range(seed, seed + len(asked))
                )
            )
        return [flat[i : i + samples] for i in range(0, len(flat), samples)]

    def _response(self, problem: Problem, sample: int, seed: int) -> Response:
        try:
            reply = self._server.ask(self._request(problem, seed % 2**31))
        except (BadProblem, RequestRefused) as error:  # the problem is at fault
            return Response(problem.uid, sample, "", refused=str(error))
        except ServerFailed as error:
            raise EngineError(f"{self._server.url}: {error}") from error
        return Response(
            uid=problem.uid,
            sample=sample,
            text=reply.text,
            length_tokens=reply.tokens_out,
            truncated=reply.finish_reason == "length",
        )

    def _request(self, problem: Problem, seed: int) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for index, text in enumerate(text_parts(problem, self._instruction)):
            if index:
                url = _data_url(problem, problem.images[index - 1])
                content.append({"type": "image_url", "image_url": {"url": url}})
            content += [{"type": "text", "text": text}] if text else []
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        system = self._system if problem.system is None else problem.system
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return {
            "model": self._model,
            "messages": messages,
            "seed": seed,
            # a server refuses unknown fields, so send only those that are set
            "max_tokens": self._sampling.max_completion_tokens,
            **{name: getattr(self._sampling, name) for name in _OF_OPENAI},
            "extra_body": self._beyond_openai(),
        }

    def _beyond_openai(self) -> dict[str, Any]:
        sampler = {
            name: getattr(self._sampling, name)
            for name in WHOLE_SOFTMAX
            if name not in _OF_OPENAI and name in self._sampling.undescribed
        }
        # the name under which vLLM and SGLang hand them to the template
        args = {"chat_template_kwargs": self._template_args} if self._template_args else {}
        return sampler | args


def _data_url(problem: Problem, source: bytes | Path) -> str:
    try:
        return data_url(source)
    except BadImage as error:
        raise BadProblem(f"problem {problem.uid}: {error}; repair it") from error
