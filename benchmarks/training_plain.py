"""One training by a plain loop over transformers and PEFT, run by `training.py`: `training_plain.py JOB.json`.

Packed rows, bfloat16 autocast, fused AdamW, the model's own loss: what a careful user writes in forty lines."""

import json
import sys
from pathlib import Path
from typing import Any

ROWS_AT_ONCE = 2


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    import numpy as np
    import torch
    from training_work import Clock, documents, held_out_loss, plain_model, share_of_rate, with_lora

    torch.set_num_threads(job["threads"])
    clock, length, per_step = Clock(), job["length"], job["blocks_per_step"]
    model: Any = plain_model(job)
    if job["method"] == "lora":
        model = with_lora(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=job["learning_rate"], weight_decay=job["weight_decay"], betas=(0.9, 0.95), fused=True
    )
    stream = torch.from_numpy(np.concatenate(documents(job, "train")).astype(np.int64))
    rows = stream[: len(stream) // length * length].view(-1, length)
    order = np.random.default_rng(job["seed"]).permutation(len(rows))
    steps = -(-len(rows) // per_step)
    model.train()
    clock.begin()
    for step in range(steps):
        chosen = rows[order[step * per_step : (step + 1) * per_step]]
        for group in optimizer.param_groups:
            group["lr"] = job["learning_rate"] * share_of_rate(step, steps, job["warmup_steps"])
        for batch in chosen.split(ROWS_AT_ONCE):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            (loss * len(batch) / len(chosen)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    clock.finish(rows.numel())
    Path(job["result"]).write_text(json.dumps(clock.result() | {"loss": held_out_loss(model, job)}))


if __name__ == "__main__":
    main()
