"""The schema of a preset: every knob, explained once under its field.

Everything except `runtime` and `EXECUTION_OF_TRAINING` is identity config: it defines the result and enters stage keys.
These are execution config: where and how fast the same result is computed; it never enters a key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gptcore.config_part import NotNegative, Part, Positive, Share, Strings
from gptcore.config_skill import Skill as Skill
from gptcore.config_sources import Files, PythonDocs, Source, Sources
from gptcore.config_steps import WHOLE_CORPUS, Steps

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|padding|>",
    "<|context|>",
    "<|question|>",
    "<|summarize|>",
    "<|answer|>",
    "<|reserved0|>",
    "<|reserved1|>",
)
"""In id order; they follow the 256 bytes and the merges, so adding merges never moves a byte's id."""
WORD_TOKENS = ("<s>", "</s>", "<sep>", "<unk>")
"""What a word-level tokenizer has besides: those of Radford et al. 2018, section 3.3, and the unknown word."""

CONTEXT_LIMITS = {"gpt1": 512, "gpt2": 1024, "gpt3": 2048, "modern": 32_768}
"""Longest context of each family, tokens (Radford et al. 2018, section 4.1; Radford et al. 2019, section 2.3; Brown et
al. 2020, section 2.1; rotary positions know no table)."""
ACTIVATIONS = {
    **dict.fromkeys(("gpt1", "gpt2", "gpt3"), ("gelu_tanh", "gelu")),
    "modern": ("swiglu", "relu_squared"),
}
"""What each family's MLP may be, its own first."""
POSITIONS = {
    **dict.fromkeys(("gpt1", "gpt2", "gpt3"), ("learned", "sinusoidal", "rotary")),
    "modern": ("rotary", "learned", "sinusoidal"),
}
"""How each family may tell positions, its own first."""
BAND = 256
"""Default of `model.window`: that of GPT-Neo; the GPT-3 paper gives none."""
MOST_SEEDS = 100
"""Of a benchmark."""


SizeName = Literal[
    "auto",
    "gpt1",
    "gpt2-small",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "gpt3-small",
    "gpt3-medium",
    "gpt3-large",
    "gpt3-xl",
    "gpt3-2.7b",
    "gpt3-6.7b",
    "gpt3-13b",
    "gpt3-175b",
]
"""What `pretrain.size` can be: the names of gptcore/named_sizes.py, and auto."""

DIAL_FIELDS = ("size", "budget_tokens", "budget_minutes")
"""Of `pretrain`: they ask. Their answers stand in other fields and define the result, so they enter no key."""


class Corpus(Part):
    """What text, cleaned and split how."""

    sources: Sources = (PythonDocs.model_construct(),)
    """Where the documents come from, in order."""
    held_out: Strings = ()
    """Distributions whose every document belongs to the test split (python_docs)."""
    validation_share: Share = 0.02
    """Share of groups (modules, or documents where there are none) in the validation split."""
    test_share: Share = 0.0
    """Share of groups in the test split, besides `held_out`."""
    min_chars: NotNegative = 40
    """Shorter documents are dropped, characters."""
    max_chars: Positive = 100_000
    """Longer documents are cut here, characters."""
    steps: Steps = ()
    """What is done to the text, in order. Steps that look at one document alone come first, then near_duplicates, then
    decontaminate. Equal texts are always reduced to one, after the steps."""
    max_damaged_files: NotNegative = 10
    """Files that may be damaged or end early; with more of them the stage stops."""
    shard_bytes: Positive = 64_000_000
    """Size at which a new corpus file begins, bytes."""

    @model_validator(mode="after")
    def _possible(self) -> Corpus:
        weighted = sum(source.weight is not None for source in self.sources)
        if 0 < weighted < len(self.sources):
            raise ValueError(f"sources: {weighted} of {len(self.sources)} have a weight; give one to all, or to none")
        kinds = [step.kind for step in self.steps]
        ranks = [WHOLE_CORPUS.index(kind) + 1 if kind in WHOLE_CORPUS else 0 for kind in kinds]
        for before, after, left, right in zip(kinds, kinds[1:], ranks, ranks[1:], strict=False):
            if left and left >= right:
                raise ValueError(
                    f"steps: {after} cannot come after {before}; {', '.join(WHOLE_CORPUS)} come last, once"
                )
        return self


def against(corpus: Corpus) -> Files | None:
    """The files that a corpus is cleared of (`decontaminate.against`), as a source: their digests enter the key."""
    for step in corpus.steps:
        if step.kind == "decontaminate" and step.against:
            return Files(kind="files", paths=step.against)
    return None


def all_sources(corpus: Corpus) -> tuple[Source, ...]:
    """Everything whose version a corpus follows from, in the order of the resolved versions."""
    files = against(corpus)
    return corpus.sources if files is None else (*corpus.sources, files)


class Tokenizer(Part):
    """How text becomes tokens; every kind keeps every byte of it."""

    kind: Literal["bpe", "unigram", "word"] = Field(default="bpe", exclude_if=lambda value: value == "bpe")
    """bpe: byte pair encoding (Sennrich et al. 2016). unigram: the likeliest pieces (Kudo 2018). word: whole words, and
    the bytes of those that are not in the vocabulary. All are byte-level."""
    take: str | None = Field(default=None, pattern=r"^hf:.+", exclude_if=lambda value: value is None)
    """A tokenizer to take in place of training one: `hf:DIRECTORY`, such as another run's `tokenizer` stage in the
    store, or `hf:ID` or `hf:ID@COMMIT` of the Hugging Face hub; byte-level ones only. It gets the special tokens that
    it lacks. The bytes of its files enter the keys, where they lie does not."""
    vocab_size: Positive = 4096
    """Tokens in all: 256 bytes, merges (or pieces, or words), special tokens. With `take` or `model.init` it follows
    from that."""
    train_bytes: Positive = 50_000_000
    """Text that training of the tokenizer sees, bytes: the train split, or an even sample of it. Bounds memory."""


def special_tokens(kind: str) -> tuple[str, ...]:
    """Those of a kind of tokenizer, in id order."""
    return (*SPECIAL_TOKENS, *WORD_TOKENS) if kind == "word" else SPECIAL_TOKENS


class Tokens(Part):
    """Token shards."""

    shard_bytes: Positive = 16_000_000
    """Lines of the corpus, less their licences, that become one shard, bytes; a document is never cut. Shards are
    encoded side by side by `runtime.workers` processes, and one is what a kill can lose."""
    shuffle_seed: NotNegative | None = None
    """Seed of the documents' order within each split. None keeps the corpus's: pretraining draws its windows in an
    order of its own, so what changes is which documents are neighbours in a window."""


class Model(Part):
    """The shape of the network."""

    init: str | None = Field(default=None, pattern=r"^hf:.+", exclude_if=lambda value: value is None)
    """A pretrained model to start from: `hf:DIRECTORY` of transformers, or `hf:ID` or `hf:ID@COMMIT` of the Hugging
    Face hub. Shape and tokenizer are then its own (`model.context` may be shorter), with the special tokens that it
    lacks; `dropout` stays the preset's. None draws the first weights. The bytes of its files enter the keys, where they
    lie does not."""
    family: Literal["gpt1", "gpt2", "gpt3", "modern"] = "gpt2"
    """The architecture. gpt1: post-norm, learned positions, tied head (Radford et al. 2018). gpt2: pre-norm (Radford et
    al. 2019). gpt3: every second layer attends within a band (Brown et al. 2020, section 2.1). modern: rotary
    positions, RMSNorm, normed queries and keys, SwiGLU, no biases, untied head."""
    n_layer: Positive = 4
    """Blocks."""
    n_head: Positive = 4
    """Attention heads; divides n_embd."""
    n_kv_head: Positive | None = None
    """Heads of keys and values, which groups of query heads share (Ainslie et al. 2023); divides n_head. None: a pair
    for every query head. modern only."""
    n_embd: Positive = 128
    """Width of the residual stream."""
    context: Positive = 256
    """Longest sequence, tokens."""
    dropout: Share = 0.0
    """Dropout probability in training."""
    activation: Literal["gelu_tanh", "gelu", "swiglu", "relu_squared"] | None = None
    """The MLP's; None takes the family's own: gpt1, gpt2 and gpt3 GELU in the tanh form of the released code, modern
    SwiGLU. gelu is exact, and on a CPU three times as fast as its tanh form. relu_squared (So et al. 2021) comes with
    nanochat's arrangement: an MLP of four times the width, the token table normed, norms without gains."""
    positions: Literal["learned", "sinusoidal", "rotary"] | None = None
    """How positions are told: a learned table (Radford et al. 2018), a fixed one of sinusoids (Vaswani et al. 2017,
    section 3.5), or turned queries and keys (Su et al. 2021). None takes the family's own: modern rotary, else
    learned."""
    window: Positive | None = None
    """Tokens that every second layer of gpt3 looks back, the token itself among them; None is 256."""
    bias: bool | None = None
    """Whether linear layers and norms add biases; None takes the family's own: modern cannot, the others do, but for
    gpt3's queries, keys and values, which have none in GPT-Neo either."""

    @model_validator(mode="after")
    def _possible(self) -> Model:
        check_shape(self)
        limit = CONTEXT_LIMITS[self.family]
        if self.context > limit:
            raise ValueError(f"context {self.context} is longer than the {self.family} family allows ({limit})")
        return self


def check_shape(shape: Any) -> None:
    """ValueError, naming the value and what is allowed, for a combination that no network has.

    shape, here and below: a `Model`, or anything that has its fields.
    """
    family, modern = shape.family, shape.family == "modern"
    for name, known in (("activation", ACTIVATIONS), ("positions", POSITIONS)):
        value = getattr(shape, name)
        if value not in (None, *known[family]):
            raise ValueError(f"{name} {value!r} is not one of the {family} family's {list(known[family])}")
    if shape.bias and modern:
        raise ValueError("bias true: the modern family has none")
    if shape.window is not None and family != "gpt3":
        raise ValueError(f"window {shape.window}: only the gpt3 family attends within a band, not {family}")
    if shape.n_kv_head is not None and not modern:
        raise ValueError(f"n_kv_head {shape.n_kv_head}: only the modern family shares keys and values, not {family}")
    if shape.n_embd % shape.n_head:
        fits = [h for h in range(1, shape.n_embd + 1) if shape.n_embd % h == 0 and h <= 64]
        raise ValueError(f"n_head {shape.n_head} does not divide n_embd {shape.n_embd}; heads that do: {fits}")
    if shape.n_kv_head is not None and shape.n_head % shape.n_kv_head:
        fits = [h for h in range(1, shape.n_head + 1) if shape.n_head % h == 0]
        raise ValueError(f"n_kv_head {shape.n_kv_head} does not divide n_head {shape.n_head}; numbers that do: {fits}")
    if positions_of(shape) == "rotary" and shape.n_embd // shape.n_head % 2:
        raise ValueError(
            f"n_embd {shape.n_embd} over n_head {shape.n_head} is odd, and rotary positions turn pairs; "
            "take a number of heads that leaves an even width"
        )


def positions_of(shape: Any) -> str:
    """How a shape tells positions, the family's own where it does not say."""
    found: str = shape.positions or POSITIONS[shape.family][0]
    return found


def activation_of(shape: Any) -> str:
    """What a shape's MLP is, the family's own where it does not say."""
    found: str = shape.activation or ACTIVATIONS[shape.family][0]
    return found


def counterpart(shape: Any) -> str | None:
    """The class of transformers that computes what a shape does; None when there is none."""
    positions, activation = positions_of(shape), activation_of(shape)
    if shape.family == "modern":
        classes = {"swiglu": "Qwen3ForCausalLM", "relu_squared": "NanoChatForCausalLM"}
        return classes[activation] if positions == "rotary" else None
    if positions == "rotary" or (shape.family == "gpt1" and activation != "gelu_tanh"):
        return None
    return {"gpt1": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel", "gpt3": "GPTNeoForCausalLM"}[shape.family]


def no_counterpart(model: Model) -> str | None:
    """What to say of a preset's model whose weights no class of transformers can load; None for all others."""
    if counterpart(model):
        return None
    return (
        f"no class of transformers computes family {model.family} with positions {positions_of(model)} and activation "
        f"{activation_of(model)}: it trains and is registered, but publish writes no Hugging Face directory"
    )


def no_induction(shape: Any) -> str | None:
    """Why a shape cannot begin with `pretrain.start` induction; None where it can."""
    if shape.family != "modern" or positions_of(shape) != "rotary" or activation_of(shape) != "swiglu":
        return "it needs family modern with rotary positions and swiglu"
    if shape.n_kv_head is not None:
        return f"it needs queries with keys of their own, not n_kv_head {shape.n_kv_head}"
    if shape.n_layer < 2:
        return f"it needs two layers, not n_layer {shape.n_layer}"
    width = shape.n_embd // shape.n_head
    return None if width >= 32 else f"narrower heads than 32 tell too few tokens apart: {width}"


class Training(Part):
    """What pretraining and fine-tuning share."""

    steps: Positive = 1000
    """Optimizer updates."""
    batch_tokens: Positive = 8192
    """Tokens in one update, whatever the micro-batch."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw for every weight (Loshchilov and Hutter 2019), or muon for the matrices inside the blocks and adamw for the
    rest (Jordan et al. 2024)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""
    matrix_learning_rate: Annotated[float, Field(gt=0)] = 0.02
    """Peak learning rate of Muon."""
    matrix_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Muon's momentum."""
    matrix_turns: Positive = 5
    """Turns of the iteration that makes Muon's updates orthogonal: each costs, and brings them nearer."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Final learning rate as a share of the peak, for each optimizer."""
    warmup_steps: NotNegative = 50
    """Updates of linear warm-up."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Decay after the warm-up. wsd: the peak is held, then a line leads to the end."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of all updates that the decay of wsd takes."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's decoupled decay, on matrices only."""
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """AdamW's first-moment decay."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """AdamW's second-moment decay."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest global gradient norm."""
    spike_z: Annotated[float, Field(gt=0)] | None = 6.0
    """An update is skipped when the logarithm of its loss, or of a gradient norm over `grad_clip`, lies more than so
    many standard deviations above the mean of the last `spike_window`; a loss or norm that is not finite is skipped
    with any value. 6 is that of OLMo-core's SkipStepOptimizer. None skips only what is not finite."""
    spike_window: Annotated[int, Field(ge=8)] = 128
    """Updates that a spike is measured against, and within which skips are counted; judged once half of it is known."""
    most_skips: Positive = 10
    """Skips within `spike_window` at which the run goes back to the checkpoint before the first of them and passes over
    the data since."""
    most_rollbacks: NotNegative = 3
    """How often a run may go back so; the next time it fails."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 on a GPU, float32 on a CPU."""
    eval_every: Positive = 200
    """Updates between evaluations on the validation split."""
    eval_tokens: Positive = 200_000
    """Validation tokens an evaluation reads at most."""
    patience: Positive | None = None
    """Evaluations in a row without a new lowest val_loss after which training stops; None never stops early. The
    schedule knows nothing of it: a run that stops before its decay ends keeps the rate it had."""
    keep_best: bool = False
    """Whether the model left is that of the evaluation with the lowest val_loss; else that of the last update."""
    seed: NotNegative = 1
    """Seeds initial weights, batches and dropout."""
    devices: Positive = 1
    """Processes on this machine, one a GPU or a share of the CPU. Execution: it enters no key."""
    parallel: Literal["auto", "ddp", "fsdp", "tensor"] = "auto"
    """How several processes share the model. ddp: each holds all of it; fsdp: each holds a part of every matrix, and
    the whole of a block only while it computes it; tensor: each computes a part of every block. auto is ddp, or fsdp
    where weights, gradients and optimizer state do not fit a device, or tensor where a block does not. Execution."""

    @model_validator(mode="after")
    def _possible(self) -> Training:
        if self.warmup_steps >= self.steps > 0:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        if self.most_skips > self.spike_window:
            raise ValueError(
                f"most_skips {self.most_skips} can never be reached within spike_window {self.spike_window}"
            )
        return self


EXECUTION_OF_TRAINING = frozenset({"devices", "parallel"})
"""Fields of `Training` that, like `runtime`, change no more than the last bits of a result: they enter no key."""
EXECUTION: dict[str, Any] = {
    "runtime": True,
    "model": {"init"},  # where it lies; the digests of its files enter keys by themselves
    "tokenizer": {"take"},
    "benchmark": {"data_dir"},  # the same holds for it
    "skills_folder": True,
    "pretrain": set(EXECUTION_OF_TRAINING),
    "finetune": {"__all__": set(EXECUTION_OF_TRAINING)},
}
"""What `model_dump` of a preset leaves out (its `exclude`) for identity config alone."""


class Pretrain(Training):
    """Pretraining on token shards."""

    steps: NotNegative = 1000
    """Optimizer updates. 0 takes the model of `model.init` as it is."""
    start: Literal["plain", "induction"] = Field(default="plain", exclude_if=lambda value: value == "plain")
    """The first weights. plain: drawn. induction: two heads among them already copy from the context, which a small run
    does not learn by itself (gptcore/model/induction.py); family modern, without `model.init`."""
    gap_warning: float | None = 0.5
    """Nats a token by which val_loss may lie above the mean training loss of the last 50 updates before a warning; None
    never warns. Training loss is taken with dropout, on text as it comes."""
    gap_stop: float | None = None
    """The same difference at which training stops; None never does."""
    size: SizeName | None = None
    """The dial: shape, steps, batch, rates, warm-up and evaluations follow from it, and fine-tuning's batch and rates.
    A field that the preset or --set gives stands. A name is a published shape; auto takes the largest network that the
    budget trains on 20 tokens a parameter. Tables and sources: docs/sizes.md."""
    budget_tokens: Positive | None = None
    """What `size` has to train on, tokens; without a budget a named size takes 20 a parameter."""
    budget_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What `size` has instead of tokens, minutes of pretraining by a static table of devices; nothing is timed."""

    @model_validator(mode="after")
    def _dial_possible(self) -> Pretrain:
        given = [name for name in ("budget_tokens", "budget_minutes") if getattr(self, name) is not None]
        if len(given) == 2:
            raise ValueError("budget_tokens and budget_minutes say the same thing twice; leave one out")
        if self.size == "auto" and not given:
            raise ValueError("size auto needs a budget: give budget_tokens or budget_minutes")
        if self.size is None and given:
            raise ValueError(f"{given[0]} {getattr(self, given[0])} is for a size; set size to auto or to a name")
        return self


class Finetune(Training):
    """Fine-tuning of the base model for one skill."""

    keep_best: bool = True
    """Whether the model left is that of the evaluation with the lowest val_loss; else that of the last update."""
    max_input_tokens: Positive = 128
    """Longer inputs are cut here, tokens; answers never are."""
    max_target_tokens: Positive = 64
    """Items with a longer answer are left out of training, tokens; also the generation limit."""
    max_items: Positive | None = None
    """Training items at most, an even sample; None takes all."""
    max_per_answer: Positive | None = None
    """Training items at most that share one answer found in their own input; None takes all. With few, a small model
    learns to copy; with many, to guess the frequent ones."""
    share_context: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether items about one text stand in one row, as long as the context allows: the text once, then each question
    and its answer, one behind the other. More answers are learned with as many tokens."""
    packing: bool = False
    """Whether several examples share a row of the context, none seeing another; else each has a row, padded to the
    longest of a batch of like lengths, which is faster for a small model on a CPU."""
    method: Literal["full", "lora"] = "full"
    """full trains every weight. lora trains a product of two narrow matrices beside each matrix inside the blocks, by
    AdamW, and adds it to that matrix at the end (Hu et al. 2021)."""
    lora_rank: Positive = 8
    """Width of LoRA's narrow matrices."""
    lora_alpha: Positive = 16
    """LoRA's product counts alpha / rank times."""
    lora_dropout: Share = 0.0
    """Dropout probability of what LoRA's matrices read."""
    lora_targets: Strings = ()
    """Names of the matrices that LoRA changes, such as `c_attn` (gpt2) or `qkv` (modern); empty takes all inside the
    blocks."""


class Benchmark(Part):
    """What is measured on every model."""

    items: Positive = 500
    """Test items of each skill, an even sample in which question kinds keep their natural proportion."""
    heldout_documents: Positive = 500
    """Test documents of the held-out bits-per-byte task."""
    tasks: Strings = ()
    """Standard lm-eval tasks, groups or tags by name, besides the project's own. They are checked, and their data
    looked for, before the first stage runs."""
    data_dir: str | dict[str, str] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Where standard tasks find their data instead of the Hugging Face hub: a folder that holds one for each hub id
    (`DIR/Rowan/hellaswag`, laid out as the hub's repository is), such folders by hub id, or the address of a mirror
    (`http://127.0.0.1:8080`). Only digests of the data, or the commit, enter keys."""
    num_fewshot: NotNegative = 0
    """Examples in the prompt of standard tasks."""
    limit: Positive | None = None
    """Documents of each standard task at most."""
    seed: NotNegative = 1
    """Seeds which few-shot examples stand in a prompt, which answers a skill's `decoding` draws, and the bootstrap."""
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = Field(default=1, exclude_if=lambda value: value == 1)
    """How often what is drawn is measured, under `seed` and the numbers after it: standard tasks with few-shot
    examples, skills with a `decoding`. The result is the mean, the spread stands beside it as `<score>_seed_std`. What
    draws nothing is measured once."""

    @property
    def repeats(self) -> range:
        """The seeds after the first."""
        return range(self.seed + 1, self.seed + self.seeds)


class Publish(Part):
    """The registered model."""

    name: str | None = None
    """Registered model names are `<name>-<skill>`; None takes the preset's name."""
    margin_stderr: Annotated[float, Field(ge=0)] = 2.0
    """`champion` moves when the new model is better by more than this many standard errors of the difference, over the
    same items where the champion's samples can be reached, and no guarded figure is worse."""
    guard: Strings = ("heldout/bits_per_byte",)
    """Figures of the tuned model that must not be worse than the champion's beyond noise: `task/metric`, with `*` for
    any; `heldout/bits_per_byte`, the metrics of its skill, those of the tasks in `benchmark.tasks`. A figure that the
    champion never had guards nothing."""


class Runtime(Part):
    """Execution config: never enters a key."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where torch can use one."""
    threads: Positive | None = None
    """CPU threads of torch and tokenizers in a process; None takes all cores, shared out among `devices`."""
    workers: Positive = 2
    """Processes of the data stages."""
    engine: Literal["local", "ray"] = "local"
    """Where the tasks of the data stages are done: in processes of this machine, or on a Ray cluster (needs
    `pip install 'gptmill[ray]'`), whose machines must all see the store under the same path. The bytes are the same."""
    ray_address: str | None = None
    """Address of the Ray cluster, such as `auto` or `ray://head:10001`; None starts one of `workers` processes on this
    machine."""
    keep_parts: bool = True
    """Whether what the corpus stage has read, and what each step said of it, stays in the store for later corpora, so
    that a changed step redoes only what follows it. It takes about as much disk as the text; the parts of the last
    three corpora stay."""
    micro_batch_tokens: Positive | None = None
    """Tokens in one forward pass; None takes the whole batch on a CPU, 32,768 on a GPU. Halved by itself where the
    memory does not suffice."""
    checkpoint_every: Positive = 100
    """Updates between checkpoints."""
    milestone_every: Positive | None = None
    """Updates between checkpoints that are kept for good; None keeps only the recent ones."""
    compile: bool = False
    """torch.compile the model."""
    batch_items: Positive = 64
    """Sequences in one benchmark batch."""
    nodes: Positive = 1
    """Machines that train together; each runs the same command, with its own `node_rank`."""
    node_rank: NotNegative = 0
    """Which of the machines this is, counted from 0."""
    rendezvous: str | None = Field(default=None, pattern=r"^[^\s:]+:\d+$")
    """host:port at which several machines meet: an address of machine 0 and a free port there."""

    @model_validator(mode="after")
    def _possible(self) -> Runtime:
        if self.node_rank >= self.nodes:
            raise ValueError(f"node_rank {self.node_rank} must be below nodes {self.nodes}, being counted from 0")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"nodes {self.nodes} need a rendezvous, host:port of machine 0")
        return self


class Preset(Part):
    """A whole pipeline: from a dataset's name to a registered model."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Names the MLflow experiment and, unless `publish.name` is set, the registered models."""
    corpus: Corpus = Corpus.model_construct()
    """Text and splits."""
    tokenizer: Tokenizer = Tokenizer.model_construct()
    """How text becomes tokens."""
    tokens: Tokens = Tokens.model_construct()
    """Token shards."""
    model: Model = Model.model_construct()
    """The network."""
    pretrain: Pretrain = Pretrain.model_construct()
    """Pretraining."""
    finetune: dict[str, Finetune] = Field(default_factory=dict)
    """Fine-tuning, one entry a skill; its key is the skill's name (`skills_folder`, then configs/skills)."""
    skills_folder: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Where skills of one's own are looked up, each NAME.yaml. None is `skills/` beside the preset's file."""
    benchmark: Benchmark = Benchmark.model_construct()
    """Measurements."""
    publish: Publish = Publish.model_construct()
    """Registration."""
    runtime: Runtime = Runtime.model_construct()
    """Execution config."""

    @model_validator(mode="after")
    def _possible(self) -> Preset:
        problems = []
        if self.pretrain.steps == 0 and self.model.init is None:
            problems.append("pretrain.steps 0 leaves the model untrained; give more, or a model.init to start from")
        if self.pretrain.start == "induction":
            because = "model.init brings weights of its own" if self.model.init else no_induction(self.model)
            if because:
                problems.append(f"pretrain.start induction: {because}; take start plain, or change the model")
        special = len(special_tokens(self.tokenizer.kind))
        least = 256 + special
        if self.tokenizer.vocab_size < least:
            problems.append(
                f"tokenizer.vocab_size {self.tokenizer.vocab_size} is under {least} "
                f"(256 bytes + {special} special tokens)"
            )
        if self.pretrain.batch_tokens % self.model.context:
            problems.append(
                f"pretrain.batch_tokens {self.pretrain.batch_tokens} is no multiple of "
                f"model.context {self.model.context}"
            )
        rows, shares = self.pretrain.batch_tokens // self.model.context, self.pretrain.devices * self.runtime.nodes
        if self.pretrain.parallel != "tensor" and rows % shares:
            problems.append(
                f"pretrain.devices {self.pretrain.devices} on runtime.nodes {self.runtime.nodes} cannot share the "
                f"{rows} rows of a batch (batch_tokens {self.pretrain.batch_tokens} / context {self.model.context}) "
                "evenly"
            )
        for skill, tuning in self.finetune.items():
            longest = tuning.max_input_tokens + tuning.max_target_tokens
            if longest > self.model.context:
                problems.append(
                    f"finetune.{skill}: max_input_tokens + max_target_tokens {longest} exceeds "
                    f"model.context {self.model.context}"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return self
