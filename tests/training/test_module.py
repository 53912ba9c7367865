"""The module's step: gradients, what is left out of them, random numbers, the reference.

Shown red once: each micro-batch divided by its own count in `_update`, `trained=` dropped from
`Rows.build`, temperature 1 in `_stats`, step 0 in `Stream.seed`, the policy itself in place of
`frozen_copy`, the sampler without its generator.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.run_helpers import (
    EvenTokens,
    Memory,
    Nothing,
    Scripted,
    UntestedAccuracy,
    build_module,
    problems,
    run_module,
    weights,
)
from vlm_rl.advantages import Normalized
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.weights import checksum
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import (
    GRPO,
    GSPO,
    KL,
    LUSPO,
    AllSum,
    ConSPO,
    DistributionMatching,
    Objective,
)
from vlm_rl.objectives.objective import Loss, Plan
from vlm_rl.records import Batch, Prompt
from vlm_rl.rewards import Reward
from vlm_rl.rollout import Sampling
from vlm_rl.training import module as module_source
from vlm_rl.training import update as update_source
from vlm_rl.training.module import OptimizerSettings, UpdateSettings
from vlm_rl.training.streams import Stream


@pytest.fixture(scope="module")
def encoder(policy_folder: Path) -> PromptEncoder:
    return PromptEncoder(str(policy_folder))


@pytest.fixture(scope="module")
def prompts(encoder: PromptEncoder) -> list[Prompt]:
    return [encoder.encode(problem) for problem in problems(3)]


@pytest.fixture
def policy(policy_folder: Path) -> Policy:
    return Policy.from_pretrained(str(policy_folder))


OBJECTIVES = [
    LUSPO(),
    GSPO(),
    GRPO(regularizers=[KL(0.1)]),
    ConSPO(0.5, 0.1, 0.1, 1),
    GRPO(regularizers=[DistributionMatching(1.0, 0.5)]),
]


def _assert_close(
    got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], share: float = 1e-6
) -> None:
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    assert largest > 1e-4, "a gradient of zero would show nothing"
    assert got.keys() == wanted.keys()
    for name, grad in wanted.items():
        # transformers' norms and rotary angles are float32 whatever the policy is
        torch.testing.assert_close(got[name], grad, rtol=0, atol=share * largest)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_gradient_does_not_depend_on_micro_batches_or_order_of_prompts(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt], objective: Objective
) -> None:
    engine = Memory()
    gradients = {}
    for tokens, order in ((1, 1), (100, 1), (10**6, 1), (100, -1)):
        updates = UpdateSettings(micro_batch_tokens=tokens, max_grad_norm=None)
        policy = Policy.from_pretrained(str(policy_folder)).double()
        parts = {"engine": engine, "objective": objective, "updates": updates}
        run = run_module(build_module(policy, encoder, **parts), prompts[::order])
        gradients[tokens, order] = run.gradients[0]
        assert len(list(run.batches[0].micro_batches(tokens))) == {1: 12, 100: 3, 10**6: 1}[tokens]
    for other in gradients.values():
        _assert_close(other, gradients[10**6, 1])


@pytest.mark.parametrize("objective", [OBJECTIVES[3], OBJECTIVES[4]], ids=["ConSPO", "DMPO"])
def test_loss_of_groups_does_not_depend_on_micro_batches_in_any_update(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt], objective: Objective
) -> None:
    """A group in four forwards is one group."""
    engine, runs = Memory(), []
    for tokens in (1, 10**6):
        updates = UpdateSettings(micro_batch_tokens=tokens, num_minibatches=3, max_grad_norm=None)
        policy = Policy.from_pretrained(str(policy_folder)).double()
        parts = {"engine": engine, "objective": objective, "updates": updates}
        runs.append(run_module(build_module(policy, encoder, **parts), prompts))
    for update in range(3):
        # a step of the optimizer makes more of what the float32 in between has rounded
        _assert_close(runs[0].gradients[update], runs[1].gradients[update], share=1e-5)
    assert runs[0].metrics[0]["policy/loss"] == pytest.approx(runs[1].metrics[0]["policy/loss"])


class _Remembers(ConSPO):
    """Keeps the log-probabilities that the terms of an update are from, and those of the update."""

    def __init__(self) -> None:
        super().__init__(0.5, 0.1, 0.1, 1)
        self.before: list[torch.Tensor] = []
        self.within: list[torch.Tensor] = []
        self.old: list[torch.Tensor] = []

    def group_terms(
        self, minibatch: Batch, logprobs: torch.Tensor, all_sum: AllSum
    ) -> torch.Tensor:
        self.before.append(logprobs[minibatch.completion_mask])
        return super().group_terms(minibatch, logprobs, all_sum)

    def __call__(self, stats: TokenStats, batch: Batch, plan: Plan) -> Loss:
        self.within.append(stats.logprobs.detach()[batch.completion_mask])
        self.old.append(batch.old_logprobs[batch.completion_mask])
        return super().__call__(stats, batch, plan)


def test_terms_of_groups_are_of_the_policy_as_it_is(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    objective = _Remembers()
    updates = UpdateSettings(micro_batch_tokens=10**6, num_minibatches=3)
    run_module(build_module(policy, encoder, objective=objective, updates=updates), prompts)
    assert len(objective.before) == len(objective.within) == 3
    assert all(map(torch.equal, objective.before, objective.within))
    assert [torch.equal(*pair) for pair in zip(objective.old, objective.within, strict=True)] == [
        True,
        False,
        False,
    ]


class _LooksAhead(LUSPO):
    """Asks for the old log-probabilities before the update, as a part with a `prepare` does."""

    def prepare(self, minibatch: Batch, all_sum: AllSum) -> Plan:
        assert minibatch.old_logprobs.isfinite().all()
        return super().prepare(minibatch, all_sum)


@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_single_update_needs_no_pass_for_old_logprobs(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt], num_minibatches: int
) -> None:
    engine = Memory()
    runs, forwards = [], []
    for objective in (_LooksAhead(), LUSPO()):
        policy = Policy.from_pretrained(str(policy_folder))
        calls: list[None] = []
        policy.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        updates = UpdateSettings(micro_batch_tokens=100, num_minibatches=num_minibatches)
        parts = {"engine": engine, "objective": objective, "updates": updates}
        runs.append(run_module(build_module(policy, encoder, **parts), prompts))
        forwards.append(len(calls))
    for name, gradient in runs[0].gradients[0].items():
        assert torch.equal(runs[1].gradients[0][name], gradient), name
    assert torch.equal(runs[1].batches[0].old_logprobs, runs[0].batches[0].old_logprobs)
    kept = [
        {name: value for name, value in run.metrics[0].items() if not name.startswith("time/")}
        for run in runs
    ]
    assert kept[1] == kept[0]
    assert forwards[0] == (2 * forwards[1] if num_minibatches == 1 else forwards[1])


def test_groups_of_equal_rewards_give_exactly_no_gradient(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    reward = Reward({"accuracy": UntestedAccuracy(), "nothing": Nothing()})
    module = run_module(build_module(policy, encoder, reward=reward), prompts)
    assert all(not grad.any() for grad in module.gradients[0].values())
    assert module.metrics[0]["group/without_signal_frac"] == 1


def test_group_without_signal_only_counts_in_the_denominator(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    # reward = share of even tokens; the second group is one text four times
    texts = ["aaaa", "b", "cc=7", "12"]
    engine = Scripted({prompts[0].uid: texts, prompts[1].uid: ["xy"] * 4})
    gradients = []
    for chosen in (prompts[:2], prompts[:1]):
        policy = Policy.from_pretrained(str(policy_folder)).double()
        module = run_module(build_module(policy, encoder, engine=engine), chosen)
        gradients.append(module.gradients[0])
    _assert_close({name: 2 * grad for name, grad in gradients[0].items()}, gradients[1])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_engine_and_policy_agree_on_the_logprobs_of_a_step(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt], temperature: float
) -> None:
    sampling = Sampling(temperature, 16)
    module = run_module(build_module(policy, encoder, sampling=sampling, steps=2), prompts)
    for batch, metrics in zip(module.batches, module.metrics, strict=True):
        mask = batch.completion_mask & (batch.advantages != 0)  # other rows were left out
        assert mask.any()
        torch.testing.assert_close(
            batch.sampling_logprobs[mask], batch.old_logprobs[mask], rtol=0, atol=1e-5
        )
        assert metrics["drift/k3"] < 1e-8
        assert metrics["drift/abs_mean"] < 1e-5


def test_completions_that_can_not_be_scored_are_in_no_loss_and_no_accuracy(
    policy_folder: Path, encoder: PromptEncoder
) -> None:
    # gold `some` of type number cannot be read: whoever answers in a box gets verdict error,
    # whoever does not is unparsable and counts
    problem = problems(1, answer="some")[0]
    texts = [r"\boxed{5}", "no box", "none, either", r"so \boxed{7} it is"]
    prompt = encoder.encode(problem)
    runs = {}
    for name, chosen in (("all", texts), ("unparsable", texts[1:3])):
        policy = Policy.from_pretrained(str(policy_folder)).double()
        engine = Scripted({problem.uid: chosen})
        module = build_module(policy, encoder, engine=engine, group_size=len(chosen))
        runs[name] = run_module(module, [prompt])
    run = runs["all"]
    assert run.batches[0].completion_mask.any(-1).tolist() == [False, True, True, False]
    assert run.batches[0].advantages[:, 0].tolist()[::3] == [0, 0]
    assert run.metrics[0]["reward/error_frac"] == 0.5
    assert run.metrics[0]["reward/accuracy"] == 0
    assert run.metrics[0]["reward/mean"] == runs["unparsable"].metrics[0]["reward/mean"]
    _assert_close(run.gradients[0], runs["unparsable"].gradients[0])


def test_step_where_nothing_can_be_scored_changes_no_weight(
    policy: Policy, encoder: PromptEncoder
) -> None:
    problem = problems(1, answer="some")[0]
    before = weights(policy)
    engine = Scripted({problem.uid: [r"\boxed{5}", r"\boxed{6}"]})
    settings = OptimizerSettings(lr=1e-2, weight_decay=0.0)
    module = build_module(policy, encoder, engine=engine, group_size=2, optimizer=settings)
    run_module(module, [encoder.encode(problem)])
    after = weights(policy)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "reward/accuracy" not in module.metrics[0]


def test_placeholders_are_never_sampled(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    # of 448 ids 4 are banned: in 1500 free draws one would come with probability 1 - 1e-6
    module = build_module(policy, encoder, sampling=Sampling(2.0, 24), group_size=24)
    batch = run_module(module, prompts).batches[0]
    sampled = batch.completion_ids[batch.completion_mask]
    assert len(sampled) > 1200
    assert not torch.isin(sampled, policy.banned_ids).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_step_is_a_function_of_the_seed_alone(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt], seed: int
) -> None:
    ids, ends = [], []
    for global_seed, own_seed in ((11, 0), (12, seed)):
        torch.manual_seed(global_seed)
        policy = Policy.from_pretrained(str(policy_folder))
        module = run_module(build_module(policy, encoder, seed=own_seed, steps=2), prompts)
        ids.append([batch.completion_ids.tolist() for batch in module.batches])
        ends.append(checksum(policy.parameters(), policy.shards))
    assert (ids[0] == ids[1]) == (ends[0] == ends[1]) == (seed == 0)


def test_training_steps_draw_numbers_of_their_own_and_validations_the_same(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    still = OptimizerSettings(lr=0.0)
    module = run_module(build_module(policy, encoder, optimizer=still, steps=2), prompts)
    first, second = (batch.completion_ids.tolist() for batch in module.batches)
    assert first != second
    seeds = [module._seed(Stream.validation(0))]
    module.completed_steps = 1
    assert [module._seed(Stream.validation(0))] == seeds
    assert module._seed(Stream.validation(1)) not in seeds


def test_global_random_numbers_are_not_drawn(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    module = build_module(policy, encoder)
    before = torch.get_rng_state()
    run_module(module, prompts)
    assert torch.equal(torch.get_rng_state(), before)


def test_reference_stays_the_starting_policy_and_outside_the_state(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    before = weights(policy)
    objective = LUSPO(regularizers=[KL(0.1)])
    settings = OptimizerSettings(lr=1e-2)
    module = build_module(policy, encoder, objective=objective, steps=2, optimizer=settings)
    run_module(module, prompts)
    reference = weights(module.reference.policy)
    assert all(torch.equal(before[name], reference[name]) for name in before)
    assert module.metrics[0]["policy/kl"] == pytest.approx(0, abs=1e-9)
    assert module.metrics[1]["policy/kl"] > 1e-6
    assert all(name.startswith("policy.") for name in module.state_dict())
    tensors = {id(p) for group in module.optimizers().param_groups for p in group["params"]}
    assert not tensors & {id(p) for p in module.reference.policy.parameters()}


def test_without_a_term_that_needs_it_there_is_no_reference(
    policy: Policy, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    module = run_module(build_module(policy, encoder), prompts)
    assert module.reference is None
    assert module.batches[0].ref_logprobs is None


def test_groups_of_one_and_greedy_training_are_refused(
    policy: Policy, encoder: PromptEncoder
) -> None:
    with pytest.raises(ValueError, match="group_size must be >= 2, got 1"):
        build_module(policy, encoder, group_size=1)
    with pytest.raises(ValueError, match=r"sampling\.temperature must be > 0"):
        build_module(policy, encoder, sampling=Sampling(0.0, 12))


def test_metrics_of_split_forwards_equal_those_of_one(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    engine = Memory()
    reward = Reward({"accuracy": UntestedAccuracy(weight=0.5), "even": EvenTokens()})
    metrics = []
    for tokens in (1, 10**6):
        policy = Policy.from_pretrained(str(policy_folder)).double()
        updates = UpdateSettings(micro_batch_tokens=tokens, num_minibatches=3)
        parts = {"engine": engine, "updates": updates, "advantage": Normalized(), "reward": reward}
        metrics.append(run_module(build_module(policy, encoder, **parts), prompts).metrics[0])
    assert metrics[0].keys() == metrics[1].keys()
    for name in (name for name in metrics[0] if not name.startswith("time/")):
        # Adam's first step is the gradient's sign, which rounding decides where it is almost 0
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-6, abs=1e-9), name


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return next(node for node in nodes if node.name == name)


@pytest.fixture(scope="module")
def tree() -> ast.Module:
    return ast.parse(inspect.getsource(module_source))


def test_training_step_fits_one_screen(tree: ast.Module) -> None:
    step = _function(tree, "training_step")
    assert step.end_lineno is not None
    assert step.end_lineno - step.lineno + 1 <= 45


def test_module_never_asks_which_objective_it_runs(tree: ast.Module) -> None:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    asked = [ast.unparse(c) for c in calls if ast.unparse(c.func) in ("isinstance", "type")]
    assert not [call for call in asked if "objective" in call.lower()]
    compared = [list(_compared(node)) for node in ast.walk(tree)]
    names = {name for names in compared for name in names}
    assert not [name for name in names if "objective" in name]
    matched = [n for n in ast.walk(tree) if isinstance(n, ast.Match)]
    assert not matched


def _compared(node: ast.AST) -> Iterator[str]:
    """Yield what is compared with a string constant."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(isinstance(s, ast.Constant) and isinstance(s.value, str) for s in sides):
            yield from (ast.unparse(side) for side in sides)


def test_a_step_divides_in_one_place(tree: ast.Module) -> None:
    """The loss in `divided`; `update` divides only what it reports of each sequence's weight."""
    divisions = {
        function.name
        for source in (tree, ast.parse(inspect.getsource(update_source)))
        for function in ast.walk(source)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    }
    assert divisions == {"divided", "update"}
