"""vLLM as a rollout engine, in the trainer's process or as a server; only this folder imports vllm.

May import what `rollout` may. `weight_check` says what is verified at the start and what at every
update of the weights.
"""
