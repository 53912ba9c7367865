"""Question and answer under the names of most benchmarks; ViRL39K, MMK12.

{"question": "How many?", "answer": "3", "image": "1.png"}
"""

from vlm_rl.data.forms.form import ANSWERS, Form

QUESTION = Form("question", ("question",), ANSWERS)
