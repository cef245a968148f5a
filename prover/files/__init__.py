"""Real files in, real files out: Hugging Face model folders, JSONL data sets, PEFT adapters, `verilora init`."""
