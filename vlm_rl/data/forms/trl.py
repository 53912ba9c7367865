"""TRL: a prompt, as text or as a chat with parts, beside the columns that its rewards read.

{"prompt": [{"role": "user",
             "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}],
 "image": "1.png", "solution": "3"}
"""

from vlm_rl.data.forms.form import ANSWERS, Form

TRL = Form("trl", ("prompt",), ANSWERS)
