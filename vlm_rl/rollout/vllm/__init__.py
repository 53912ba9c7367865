"""vLLM as a rollout engine, in the trainer's process or as a server; only this folder imports vllm.

May import what `rollout` may. `restarts` says why an engine is restarted, `weight_checks` what is
checked about its weights at the start and at every update. A new way to run vLLM is a subclass of
`VLLMBase` beside `engine` and `server`.
"""
