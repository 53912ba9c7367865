"""Inspections of prompts: the chat template, what ends an answer, thinking, where answers stand."""

from collections.abc import Iterator

from vlm_rl.data.prompts import ANSWER_STYLE_OF
from vlm_rl.preflight.remarks import Remark, ok, stop, warning
from vlm_rl.preflight.start import Start
from vlm_rl.records import END_OF_THINKING, THINK
from vlm_rl.rollout import StopTokens

SLOTS = {"box": r"\boxed", "tag": "<answer>", "answer_line": "Answer:"}
"""What an instruction says if it asks for an answer in a slot of each style."""


def generation_prompt(start: Start) -> Iterator[Remark]:
    """Say whether the template opens the turn in which the policy is to answer."""
    turns = start.encoder.turns()
    if turns is None:
        yield ok("the template renders no answer to compare with")
        return
    seen, between, _ = turns
    if len(seen) < len(between) and between.startswith(seen):
        yield stop(
            "the chat template does not open the turn of the answer: behind the question it writes "
            f"{seen!r:.60}, in a whole chat {between!r:.60}",
            "take the chat_template.jinja of the model's authors, which reads "
            "add_generation_prompt",
        )
    else:
        yield ok(f"prompts end with {seen[-40:]!r}")


def stop_tokens(start: Start) -> Iterator[Remark]:
    """Say whether what ends a turn in the template ends a completion."""
    encoder = start.encoder
    tokenizer = encoder.tokenizer
    stops = StopTokens.of(encoder.path, tokenizer)
    turns = encoder.turns()
    ending = encoder.special_tokens(turns[2])[:1] if turns is not None else []
    ids = tokenizer.convert_tokens_to_ids(ending)
    if ending and ids[0] not in stops.ids:
        yield stop(
            f"the chat template ends an answer with {ending[0]}, which ends no completion: answers "
            "would go on up to the limit",
            f"add {ids[0]} to eos_token_id in the checkpoint's generation_config.json",
        )
    elif turns is not None and not ending:
        yield warning(
            "the chat template ends an answer without a special token, so nothing ends a "
            "completion",
            "take the chat_template.jinja of the model's authors",
        )
    else:
        yield ok(stops.line(tokenizer))


def thinking(start: Start) -> Iterator[Remark]:
    """Say whether template and instruction agree about who writes `<think>`."""
    turns = start.encoder.turns()
    seen = "" if turns is None else turns[0].rstrip()
    asked = THINK in start.encoder.instruction
    opened, closed = seen.endswith(THINK), seen.endswith(END_OF_THINKING)
    if opened and asked:
        yield warning(
            f"the chat template opens {THINK} at the end of every prompt, and the instruction asks "
            "the policy to write it too",
            "prompt.style=plain with an instruction for the answer alone",
        )
    elif closed and asked:
        yield warning(
            f"the chat template ends the thinking ({END_OF_THINKING}) before the policy begins, "
            "and the instruction asks for it",
            "prompt.template_args {enable_thinking: true}, or an instruction without thinking",
        )
    else:
        state = "opened" if opened else "switched off" if closed else "not touched"
        yield ok(f"thinking is {state} by the template")


def answer_form(start: Start) -> Iterator[Remark]:
    """Say whether prompts ask for the answer where the accuracy term looks for it."""
    accuracy, encoder = start.parts.reward.accuracy, start.encoder
    if accuracy is None:
        yield ok("no term reads answers by their place")
        return
    reads = accuracy.answer_style
    asked = [style for style, slot in SLOTS.items() if slot in encoder.instruction]
    if encoder.style in ANSWER_STYLE_OF or not asked or reads in asked:
        yield ok(f"answers are read where answer_style={reads} says")
        return
    yield warning(
        f"the instruction asks for the answer in {SLOTS[asked[0]]!r}, the accuracy term reads "
        f"answer_style={reads}",
        f"set answer_style of the accuracy term to {asked[0]}",
    )
