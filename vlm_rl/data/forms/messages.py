"""Messages with roles: OpenAI's chat, LLaMA-Factory, ms-swift. The assistant may be the answer.

{"messages": [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "1.png"}}, {"type": "text", "text": "How many?"}]},
    {"role": "assistant", "content": "3"}]}
"""

from vlm_rl.data.forms.form import ANSWERS, Form

MESSAGES = Form("messages", ("messages",), (*ANSWERS, "messages"))
