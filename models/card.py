"""The model card of exported adapters: README.md, with the head that the Hugging Face hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .pretrained import BUILTIN

CARD = """---
{head}
---

# `{method}` on {backbone}

Adapters that the clients of a federation trained with fedgraft, through Flower. They answer after
every exit.

| | |
| --- | --- |
{rows}

The {count} classes, in the order of the labels: {classes}.

## Use

```python
from fedgraft.models import AnytimeClassifier

classifier = AnytimeClassifier.load("adapters"{place})
answers = classifier.predict(photos)  # PIL images, or uint8 (N, H, W, C)
```
{peft}
## License

None is given yet: add `license:` to the head of this file, one that the backbone's and the data's
allow.
"""
PEFT = """
`adapter_model.safetensors` and `adapter_config.json` are LoRA alone, in peft's own form:

```python
from peft import PeftModel
from transformers import AutoModel

backbone = AutoModel.from_pretrained("{source}", add_pooling_layer=False, dtype="float32")
model = PeftModel.from_pretrained(backbone, "adapters")
tokens = model(pixels, interpolate_pos_encoding=True).last_hidden_state
```

The heads, and whatever else the method `{method}` trains, are in `exits.safetensors`.
"""


def hub_id(backbone: str) -> str | None:
    """Return the setting `backbone` where it is a hub id, and neither a folder nor built in."""
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", backbone) and not Path(backbone).is_dir()
    return backbone if is_id else None


def model_card(description: Mapping[str, Any], accuracy: Mapping[int, float]) -> str:
    """Write the card.

    Parameters
    ----------
    description : Mapping[str, Any]
        That of ``adapters.json``.
    accuracy : Mapping[int, float]
        Share of right answers by exit, on held-out images; may be empty.
    """
    adapter, method = description["adapter"], description["method"]
    has_lora = adapter["kind"] == "lora"
    published = hub_id(description["backbone"])
    # The path of a folder says something on one machine alone.
    backbone = published or Path(description["backbone"]).name
    is_found = published or backbone == BUILTIN
    head = [
        f"library_name: {'peft' if has_lora else 'fedgraft'}",
        *([f"base_model: {published}"] if published else []),
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("fedgraft", "flower", "federated-learning", "early-exit")),
        *(["- lora"] if has_lora else []),
    ]
    rows = {
        "method": f"`{method}`",
        "backbone": f"{backbone}, images of {description['image-size']} pixels",
        "adapter": f"`{adapter['kind']}`" + (f", rank {adapter['rank']}" if has_lora else ""),
        **{f"accuracy after block {e}": f"{100 * a:.1f} %" for e, a in accuracy.items()},
    }
    return CARD.format(
        head="\n".join(head),
        method=method,
        backbone=backbone,
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        count=len(description["classes"]),
        classes=", ".join(description["classes"]),
        place="" if is_found else ', backbone="..."',
        peft=PEFT.format(source=published or "...", method=method) if has_lora else "",
    )
