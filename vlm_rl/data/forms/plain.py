"""Any question beside any answer, for rows that no other form recognises.

{"query": "How many?", "ground_truth": "3", "decoded_image": {"bytes": ...}}
"""

from vlm_rl.data.forms.form import ANSWERS, Form

_CHATS = ("messages", "conversations")
PLAIN = Form("plain", ("problem", "question", "prompt", "query", *_CHATS), (*ANSWERS, *_CHATS))
