"""What preflight has seen, as one page: remarks, prompts with pictures, completions, figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from PIL import Image

from vlm_rl.disk.files import write_text
from vlm_rl.memory.estimate import PHASES
from vlm_rl.preflight.answers import looking_right
from vlm_rl.preflight.machine import GB, device_memory
from vlm_rl.preflight.remarks import LEVELS, Inspected
from vlm_rl.preflight.small_rollout import SmallRollout, prompts_of
from vlm_rl.preflight.start import Start
from vlm_rl.records import Prompt
from vlm_rl.run.first_problems import shown_prompt
from vlm_rl.show.figures import Figure
from vlm_rl.show.figures import save as save_figure
from vlm_rl.show.pages import embedded, templates

TEMPLATES = templates("vlm_rl.preflight")
NUM_PROMPTS = 6
NUM_GROUPS = 4
MOST_ROWS = 50
_SIDE = 320


def write_page(target: Path, inspected: Inspected, start: Start) -> None:
    """Write the page to `target`. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page_of(inspected, start))


def page_of(inspected: Inspected, start: Start) -> str:
    """Return the whole page; parts of the start that are not there are left out."""
    sampled = _of(start, "sampled")
    prompts = sampled.prompts if sampled else _first_prompts(start)
    return TEMPLATES.get_template("page.html.jinja").render(
        title=start.config.run_dir if start.has("config") else "a configuration",
        levels=LEVELS,
        inspected=inspected,
        prompts=[_shown(start, prompt) for prompt in prompts[:NUM_PROMPTS]],
        lengths=sampled and histogram(sampled, start),
        groups=_groups(start),
        misjudged=_misjudged(start),
        skipped=_skipped(start),
        said=[part.said for name in ("train", "val") if (part := _of(start, name))],
        memory=_memory(start),
        settings=yaml.safe_dump(start.resolved, sort_keys=False) if start.has("resolved") else "",
    )


def histogram(sampled: SmallRollout, start: Start) -> Markup:
    """Plot the lengths of the completions, and the budget."""
    limit = start.parts.sampling.max_completion_tokens
    lengths = [len(completion) for group in sampled.groups for completion in group]
    canvas = Figure(figsize=(6.4, 3), dpi=110, layout="constrained")
    axis = canvas.add_subplot()
    axis.hist(lengths, bins=min(40, limit), range=(0, limit), alpha=0.75)
    axis.axvline(limit, color="C3", linestyle="--", label=f"max_completion_tokens={limit}")
    axis.legend()
    axis.set(xlabel="tokens of a completion", ylabel="completions")
    return embedded(partial(save_figure, canvas), "png", "lengths of completions")


def picture(image: Image.Image) -> Markup:
    """Return an image as the model sees it, no side longer than a card."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    return embedded(small.save, "png", f"image of {image.width} x {image.height} pixels")


def _first_prompts(start: Start) -> list[Prompt]:
    if not (start.has("train") and start.has("encoder")):
        return []
    return prompts_of(start.encoder, start.train.problems, NUM_PROMPTS)


def _shown(start: Start, prompt: Prompt) -> Mapping[str, Any]:
    visual = len(prompt) - len(prompt.unexpanded_ids) + len(prompt.images)
    return {
        "uid": prompt.uid,
        "tokens": len(prompt),
        "visual": visual,
        "text": shown_prompt(start.encoder, prompt),
        "answer": prompt.problem.answer,
        "pictures": [picture(image) for image in prompt.images],
    }


def _groups(start: Start) -> list[Mapping[str, Any]]:
    rollout = _of(start, "rollout")
    if rollout is None:
        return []
    rows = zip(rollout.prompts, rollout.groups, rollout.scores.verdicts, strict=True)
    return [
        {
            "uid": prompt.uid,
            "answer": prompt.problem.answer,
            "completions": [
                {
                    "text": completion.text,
                    "tokens": len(completion),
                    "cut": completion.truncated,
                    "verdict": verdict,
                    "reward": float(rollout.scores.total[row, column]),
                }
                for column, (completion, verdict) in enumerate(zip(group, verdicts, strict=True))
            ],
        }
        for row, (prompt, group, verdicts) in enumerate([*rows][:NUM_GROUPS])
    ]


def _misjudged(start: Start) -> Sequence[Any]:
    rollout = _of(start, "rollout")
    if rollout is None or (term := start.parts.reward.accuracy) is None:
        return []
    return looking_right(term, rollout)[:MOST_ROWS]


def _skipped(start: Start) -> Mapping[str, Any]:
    rows = [row for name in ("train", "val") if (part := _of(start, name)) for row in part.skipped]
    counts = Counter(row.reason for row in rows)
    return {"counts": counts, "rows": rows[:MOST_ROWS]}


def _memory(start: Start) -> Mapping[str, Any] | None:
    needs = _of(start, "memory")
    if needs is None:
        return None
    size, name = device_memory(start)
    names = list(dict.fromkeys(item for phase in PHASES for item in needs.items[phase]))
    rows = {item: [needs.items[p].get(item, 0) / GB for p in PHASES] for item in names}
    rows["sum"] = [needs.needed(phase, size) / GB for phase in PHASES]
    return {"phases": PHASES, "rows": rows, "device": f"{name}: {size / GB:.1f} GB"}


def _of(start: Start, name: str) -> Any:
    """Return a stage that has been made, None otherwise."""
    return getattr(start, name) if start.has(name) else None
