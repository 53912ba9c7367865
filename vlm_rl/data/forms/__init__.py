"""Which form do the rows of a data set have, and what in them is what?

A form is one small file here. The first one of `FORMS` whose columns a row has is its form.
"""

from vlm_rl.data.forms.conversations import CONVERSATIONS
from vlm_rl.data.forms.easyr1 import EASYR1
from vlm_rl.data.forms.messages import MESSAGES
from vlm_rl.data.forms.plain import PLAIN
from vlm_rl.data.forms.question import QUESTION
from vlm_rl.data.forms.r1v import R1V
from vlm_rl.data.forms.trl import TRL
from vlm_rl.data.forms.verl import VERL

FORMS = {
    form.name: form for form in (VERL, EASYR1, R1V, QUESTION, TRL, MESSAGES, CONVERSATIONS, PLAIN)
}
"""By name, in the order in which they are tried."""
