"""R1-V and open-r1-multimodal: the answer stands in a worked solution, the image before the text.

{"image": "1.png", "problem": "How many?", "solution": "<think>...</think><answer> 3 </answer>"}
"""

from vlm_rl.data.forms.form import Form

R1V = Form("r1v", ("problem",), ("solution",))
