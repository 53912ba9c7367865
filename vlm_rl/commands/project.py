"""What `vlm-rl init` writes beside a configuration."""

REWARDS = '''"""Rewards of this project. config.yaml names this file."""


def own(problem, completion):
    """Return a number for one completion: here 1 if it gives a reason for its answer.

    It is logged as `reward/own`, and counts once its weight in config.yaml is above 0. Other
    parameters are given to those who declare them: `verdict` (was the answer right), `images`,
    `meta` (the other columns of the row), `length` (in tokens).
    """
    return float("because" in completion.text.lower())
'''

README = """# {name}

Begun from the recipe `{recipe}` of vlm_rl. Every command is run in this folder.

```bash
{command}
```

trains; the same command again resumes. Everything it writes is in `{run_dir}`: look at
`{run_dir}/plots/training.png` first. `--print_config` at its end shows what it would use,
`vlm-rl fit --help` the keys that are set most.

## Your data

One JSON object a line, with the images beside the file:

```json
{{"problem": "<image>What is angle A?", "answer": "40", "images": ["images/1.png"]}}
```

Name it in `config.yaml` (Parquet, tar, a hub id and the rows of other trainers are read too):

```yaml
data:
  train: [{{path: data/train.jsonl}}]
  val: [{{path: data/val.jsonl}}]
```

`vlm-rl audit data/train.jsonl` says what is wrong with it before you train on it.

## Your reward

`own` in `rewards.py` is called for every completion. Give it a weight in `config.yaml` under
`reward`, `terms`, `own`.

## Your model

`policy.path` in `config.yaml` is a folder or hub id of a Qwen-VL. What it needs of a GPU:

```bash
vlm-rl hardware --config config.yaml --policy.path Qwen/Qwen2.5-VL-3B-Instruct
```

## Afterwards

```bash
vlm-rl evaluate --model {run_dir}/checkpoints/best/hf --benchmark mathvista
vlm-rl ask --model {run_dir}/checkpoints/best/hf --image FILE --question "What is angle A?"
```
"""
