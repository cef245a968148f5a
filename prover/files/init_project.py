"""What `verilora init DIR` writes: a commented run.yaml, an order for it, the tiny LLaMA folder and the small data set.

They lie side by side and run.yaml refers to them relatively, so `verilora run run.yaml` works inside DIR at once.
Existing files are never replaced: all names are checked first, and each file is created exclusively. Called by cli.py.
"""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

RUN_YAML = """\
# An audited LoRA fine-tune. Start it with: verilora run run.yaml
# Paths are relative to this file. `verilora estimate run.yaml` shows what it will cost.

# A Hugging Face folder (Llama, Mistral, Qwen2, Qwen3): config.json, safetensors (one file or shards), tokenizer.json.
base_model: tiny-llama

# JSON Lines, all of one kind: {"text": "..."}, {"prompt": "...", "completion": "..."} or {"messages": [...]}
dataset: haiku.jsonl
# dataset_opening: dataset-opening.npz   # instead: data that its owner committed with `verilora dataset commit`

data:
  format: auto               # that of the first line; or text, prompt_completion, messages
  packing: false             # true: documents one after another, cut into rows, no cross-document mask

lora:
  r: 8                       # rank of lora_A and lora_B, 1 to 64
  lora_alpha: 16             # the update is scaled by lora_alpha / r
  use_rslora: false          # true: by lora_alpha / sqrt(r)
  target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]

training:
  optimizer: sgd             # or adamw, with beta1, beta2, epsilon, weight_decay in place of momentum
  momentum: 0.9              # 0 is plain SGD
  learning_rate: 0.05        # for the gradient of the mean token loss of a batch
  schedule: constant         # or linear, cosine: from learning_rate to 0
  warmup_steps: 0            # steps from 0 to learning_rate before that
  max_grad_norm: 0           # above 0: gradients are clipped to this global norm
  epochs: 1
  batch_size: 4
  gradient_accumulation: 1   # batches summed into one step
  sequence_length: 64        # longer examples are refused (packing cuts them), shorter ones padded
  seed: 7                    # public: data order and the initial lora_A follow from it
  window_steps: 4            # consecutive steps that are proved together
  max_steps: 8               # stop after so many steps; remove the line to train all epochs

quantisation:                # `verilora calibrate run.yaml` shows what these cost and what room they leave
  weights: int12             # or int16
  scales: tensor             # or row: a scale for each output row of a matrix
  headroom: 0                # 0 to 4 bits more room for values that grow while training

audit:
  base_model: private        # private: verifiers learn the shapes of the base weights only
  publish_loss: true         # the proved loss of every step goes into the ledger
  soundness_bits: 100        # refuse to prove with less
  parts: 0                   # tasks that share a step's sequences; 0: as few as fit in memory

# orchestration:             # for provers on other machines (docs/operations.md):
#   provers: gpu-provers     # a work pool of a Prefect server instead of this process
#   prover_device: cuda      # tasks are planned to fit in one prover's memory: of a GPU, or cpu
#   prover_memory: 15GB      # absent: what the planning process may use

storage:
  ledger: sqlite:///var/ledger.db   # append-only audit ledger
  objects: file:var/objects         # proofs and other public bytes, by SHA-256
  private: file:var/private         # adapter snapshots, witnesses, seeds: keep this secret
"""


ORDER_YAML = """\
# What the customer ordered. A run is compared with it, and the first difference rejects it, by:
#   verilora verify RUN --expect order.yaml
# Keys are those of a run's manifest (verilora ledger show RUN --order); any subset of them may be ordered.
model: {vocab: 288, hidden: 64, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, ffn: 192}
lora: {r: 8, lora_alpha: 16, use_rslora: false, target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}
optimizer: {kind: sgd, momentum: 0.9, learning_rate: 0.05, schedule: constant, warmup_steps: 0, max_grad_norm: 0}
batch_size: 4
gradient_accumulation: 1
sequence_length: 64
steps: 8
seed: 7
examples: 96
publish_loss: true
widths: {weight: 12, head: 12}
weight_scales: tensor
# dataset_owner: ...         # with commitments.dataset: data committed beforehand, and by whom
# commitments: {dataset: ..., base/0: ...}  # ids known beforehand tie the run to this data and this base model
"""


class InitError(Exception):
    """The folder already holds one of the files, or cannot be written; nothing was replaced."""


def init_project(directory: Path) -> list[Path]:
    """Writes the project into `directory` (made if absent) and returns the files written, run.yaml first."""
    directory = Path(directory)
    contents = {Path("run.yaml"): RUN_YAML.encode(), Path("order.yaml"): ORDER_YAML.encode()}
    examples = resources.files("examples")
    contents[Path("haiku.jsonl")] = _read(examples / "haiku.jsonl")
    for name in MODEL_FILES:
        contents[Path("tiny-llama") / name] = _read(examples / "tiny-llama" / name)
    present = [str(name) for name in contents if (directory / name).exists()]
    if present:
        raise InitError(f"{directory} already holds {', '.join(present)}. Choose another folder; nothing was written.")
    written = []
    for path, content in contents.items():
        target = directory / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content)
        except OSError as error:
            raise InitError(f"{target} cannot be written: {error.strerror}. Nothing was replaced.") from error
        written.append(target)
    return written


def _read(source: Traversable) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise InitError(f"the installation lacks examples/{source.name}. Install the project again.") from error
