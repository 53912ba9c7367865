"""Conversations of `from` and `value`: LLaVA, VLM-R1, ShareGPT. The assistant may be the answer.

{"image": "1.png", "conversations": [{"from": "human", "value": "<image>How many?"},
                                     {"from": "gpt", "value": "\\\\boxed{3}"}]}
"""

from vlm_rl.data.forms.form import ANSWERS, Form

CONVERSATIONS = Form("conversations", ("conversations",), (*ANSWERS, "conversations"))
