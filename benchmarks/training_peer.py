"""One training by TRL's SFTTrainer, run by `training.py` with the peer's interpreter: `training_peer.py JOB.json`."""

import json
import sys
from pathlib import Path
from typing import Any

SIDES: dict[str, dict[str, Any]] = {
    "trl-default": {},
    "trl-best": {
        "packing": True,
        "packing_strategy": "bfd_split",
        "bf16": True,
        "gradient_checkpointing": False,
        "loss_type": "chunked_nll",
    },
}
"""What each setting changes in SFTConfig: nothing at all, or what was found to be fastest on this model."""


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from training_work import Clock, documents, held_out_loss, plain_model, share_of_rate
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(job["threads"])
    chosen, clock = SIDES[job["side"]], Clock()

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            def share(step: int) -> float:
                return share_of_rate(step, num_training_steps, job["warmup_steps"])

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, share)
            return self.lr_scheduler

    rows = [ids.tolist() for ids in documents(job, "train")]
    tokens = sum(map(len, rows))
    packed = chosen.get("packing", False)
    config = SFTConfig(
        output_dir=job["folder"],
        num_train_epochs=1,
        # Its packing leaves a seventh of the positions empty: with a row more, a step holds as many tokens as ours.
        per_device_train_batch_size=job["blocks_per_step"] + 1 if packed else job["documents_per_step"],
        max_length=job["length"] if packed else job["longest"],
        learning_rate=job["learning_rate"],
        weight_decay=job["weight_decay"],
        adam_beta2=0.95,
        seed=job["seed"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **chosen,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=job["tokenizer"], eos_token=job["end"], pad_token=job["end"])
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Trainer(
        model=plain_model(job),
        args=config,
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        processing_class=tokenizer,
        peft_config=lora if job["method"] == "lora" else None,
        callbacks=[Timer()],
    )
    clock.begin()
    trainer.train()
    clock.finish(tokens)
    result = clock.result() | {"loss": held_out_loss(trainer.model, job)}
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
