"""verl: a chat and, in a struct, what its reward reads. An `answer` beside it is not.

{"data_source": "geo3k", "prompt": [{"role": "user", "content": "<image>How many?"}],
 "images": [{"bytes": ...}], "reward_model": {"style": "rule", "ground_truth": "3"}}
"""

from vlm_rl.data.forms.form import Form

VERL = Form("verl", ("prompt",), ("reward_model.ground_truth",))
