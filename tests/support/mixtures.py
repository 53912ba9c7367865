"""What tests of mixtures of experts share: their families, and transformers' own routers."""

import torch
from torch import Tensor

from tests.support.tiny import FAMILIES
from vlm_rl.model import families
from vlm_rl.model.policy import Policy
from vlm_rl.records import Rows

MIXTURES = tuple(f for f in FAMILIES if families.FAMILIES[f].routers is not None)


def router_logits(policy: Policy, rows: Rows) -> list[Tensor]:
    """Return the logits of each router for the N trained tokens of `rows`, each [N, E], with their
    graph: every row alone and unpadded, through transformers' own experts."""
    policy.model.set_experts_implementation({"text_config": "eager"})
    heard: list[Tensor] = []
    hooks = [
        r.register_forward_hook(lambda _, __, out: heard.append(out[0])) for r in routers(policy)
    ]
    by_row = []
    for row, length in enumerate(rows.lengths.tolist()):
        if length:
            prompt = rows.prompts[int(rows.row_prompt[row])]
            ids = torch.cat([prompt.token_ids, rows.completion_ids[row, :length]])
            vision = {}
            if prompt.pixel_values is not None:
                vision = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.grid_thw}
            heard.clear()
            types = (ids == policy.model.config.image_token_id).int()
            policy.model(
                input_ids=ids[None], mm_token_type_ids=types[None], use_cache=False, **vision
            )
            by_row.append([logits[len(prompt) - 1 : -1] for logits in heard])
    for hook in hooks:
        hook.remove()
    policy.model.set_experts_implementation({"text_config": "vlm_rl_experts"})
    return [torch.cat(layer) for layer in zip(*by_row, strict=True)]


def routers(policy: Policy) -> list[torch.nn.Module]:
    return [module for name, module in policy.named_modules() if name.endswith("mlp.gate")]
