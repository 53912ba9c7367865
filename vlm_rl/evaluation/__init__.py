"""How good the policy is: benchmarks, who answers them, both rulings, and what is reported.

May import everything but `run` and the entry points. A new benchmark is a file in `benchmarks/`.
"""

from vlm_rl.servers.chat_server import ChatServer

__all__ = ["ChatServer"]
