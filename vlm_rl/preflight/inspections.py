"""Every inspection, in the order in which they are shown."""

from vlm_rl.preflight import answers, data, machine, prompts, settings
from vlm_rl.preflight.remarks import Inspection

INSPECTIONS = (
    Inspection("versions", settings.versions),
    Inspection("consistency", settings.consistency, cheap=False),
    Inspection("run folder", settings.folder, cheap=False),
    Inspection("trackers", settings.trackers, cheap=False),
    Inspection("model and ranks", settings.model, cheap=False),
    Inspection("learning", settings.learning),
    Inspection("rows", data.rows, cheap=False),
    Inspection("dynamic sampling", data.refill, cheap=False),
    Inspection("gold types", data.gold_types, cheap=False),
    Inspection("golds", data.golds),
    Inspection("duplicates", data.duplicates),
    Inspection("training in validation", data.leaks),
    Inspection("training in benchmarks", data.benchmarks, cheap=False),
    Inspection("validation size", data.validation),
    Inspection("image sizes", data.image_sizes),
    Inspection("image pixels", data.decoding, cheap=False),
    Inspection("prompt lengths", data.prompt_lengths, cheap=False),
    Inspection("generation prompt", prompts.generation_prompt),
    Inspection("stop tokens", prompts.stop_tokens),
    Inspection("thinking", prompts.thinking),
    Inspection("answer form", prompts.answer_form),
    Inspection("memory", machine.memory),
    Inspection("disk", machine.disk),
    Inspection("accuracy", answers.accuracy, cheap=False),
    Inspection("signal", answers.signal, cheap=False),
    Inspection("truncation", answers.truncation, cheap=False),
    Inspection("thinking that ends", answers.unended_thinking, cheap=False),
    Inspection("constant terms", answers.constant_terms, cheap=False),
    Inspection("misjudged answers", answers.misjudged, cheap=False),
    Inspection("engine against policy", answers.drift, cheap=False),
    Inspection("time", machine.duration, cheap=False),
)
"""What is not `cheap` loads or samples something, or is refused by `fit` itself with a line."""

CHEAP = tuple(inspection for inspection in INSPECTIONS if inspection.cheap)
