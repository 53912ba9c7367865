"""Shapes of published Qwen-VL models, for the memory table where no checkpoint is at hand.

Widths and depths are from memory of the `config.json` of each model, not read from the hub; the
number of parameters that follows from them agrees with the published one, which stands beside each
(rounded to 10 million, as the model's page shows the sum of its tensors). A run's own memory is
computed from the `config.json` at its `policy.path` instead.
"""

from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5_VLConfig


@dataclass(frozen=True)
class Published:
    """A Qwen2.5-VL: `published` billions of parameters, a tied head counted once."""

    name: str
    published: float
    hidden: int
    layers: int
    heads: int
    key_heads: int
    mlp: int
    vocabulary: int
    tower_mlp: int
    tied: bool

    def config(self) -> Any:
        """What transformers builds the model from."""
        return Qwen2_5_VLConfig(
            text_config={
                "vocab_size": self.vocabulary,
                "hidden_size": self.hidden,
                "intermediate_size": self.mlp,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_heads,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1000000.0,
                    "mrope_section": [16, 24, 24],
                },
            },
            vision_config={
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": self.tower_mlp,
                "num_heads": 16,
                "out_hidden_size": self.hidden,
            },
            tie_word_embeddings=self.tied,
        )


QWEN2_5_VL = {
    "3B": Published("Qwen2.5-VL-3B", 3.75, 2048, 36, 16, 2, 11008, 151936, 3420, True),
    "7B": Published("Qwen2.5-VL-7B", 8.29, 3584, 28, 28, 4, 18944, 152064, 3420, False),
    "32B": Published("Qwen2.5-VL-32B", 33.45, 5120, 64, 40, 8, 27648, 152064, 3456, False),
    "72B": Published("Qwen2.5-VL-72B", 73.41, 8192, 80, 64, 8, 29568, 152064, 3456, False),
}
