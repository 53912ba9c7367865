"""EasyR1, AReaL, We-Math 2.0 and our own rows.

{"problem": "<image>How many?", "answer": "3", "images": ["1.png"]}
"""

from vlm_rl.data.forms.form import Form

EASYR1 = Form("easyr1", ("problem",), ("answer",))
