import json
import subprocess
import sys

import pytest
import torch
from tiny_training import MODEL, VOCABULARY

from gptcore.config import Finetune
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import load_model, save_model
from gptcore.training.batches import Example, collate
from gptcore.training.gradient import gradient
from gptcore.training.lora import Adapter
from gptcore.training.optimizer import build_optimizers

IDS = torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(5))


def config(**changes):
    return Finetune(**{"method": "lora", "steps": 60, "warmup_steps": 1, "lora_rank": 4, **changes})


def network(family):
    """A network whose every weight does something: the modern family's projections start at zero."""
    shape = GPTConfig.of(MODEL.model_copy(update={"family": family, "dropout": 0.0}), VOCABULARY)
    model = build(shape).initialise(1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0.0, 0.1, generator=draw))
    return model


@pytest.fixture(params=["gpt2", "modern"])
def model(request):
    return network(request.param)


def logits_of(model):
    model.eval()
    with torch.no_grad():
        return model(IDS)


def train_some(model, settings):
    """Ten updates."""
    optimizers = build_optimizers(model, settings)
    batch = collate([Example([5, 6, 7], [8, 9]), Example([1, 2], [3, 4, 5])])
    model.train()
    for _ in range(10):
        gradient(model, model, batch, settings, torch.float32, None)
        optimizers.step(1.0)
    return optimizers


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_the_factors_are_trained_and_all_by_adamw(model, optimizer):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = logits_of(model)
    settings = config(optimizer=optimizer)
    Adapter(model, settings)
    assert torch.equal(logits_of(model), start), "an adapter that has learned nothing changes nothing"
    optimizers = train_some(model, settings)
    assert [type(part) for part in optimizers.parts] == [torch.optim.AdamW]
    after = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(":")[0] for name in optimizers.tensors(model)} == set(trained)
    assert len(trained) == 2 * len([name for name in before if name in network(model.config.family).stacks])
    assert (logits_of(model) - start).abs().amax() > 0.01


def test_merged_weights_give_the_adapted_models_logits(model, tmp_path):
    names = list(model.state_dict())
    adapter = Adapter(model, config(lora_dropout=0.1))
    train_some(model, config())
    adapted = logits_of(model)
    adapter.merge()
    assert list(model.state_dict()) == names
    torch.testing.assert_close(logits_of(model), adapted, atol=1e-5, rtol=0)
    save_model(model, tmp_path)
    torch.testing.assert_close(logits_of(load_model(tmp_path)), adapted, atol=1e-5, rtol=0)


def test_the_adapter_can_be_put_on_the_base_model_by_peft(model, tmp_path):
    from peft import PeftModel

    save_model(model, tmp_path / "base")
    adapter = Adapter(model, config(lora_rank=3, lora_alpha=5))
    train_some(model, config())
    adapter.save(tmp_path)
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (3, 5, "LORA")
    base = load_model(tmp_path / "base")
    assert (logits_of(base) - logits_of(model)).abs().amax() > 0.01
    PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits_of(base), logits_of(model), atol=1e-6, rtol=0)
    adapter.save(tmp_path / "again")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again/adapter" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_the_seed_decides_where_the_factors_start():
    def factors(seed):
        model = network("modern")
        Adapter(model, config(seed=seed))
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(factors(1), factors(1))
    assert not torch.equal(factors(1), factors(2))


def test_targets_are_matrices_inside_the_blocks():
    model = network("modern")
    Adapter(model, config(lora_targets=("qkv",)))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4 and all(".qkv.lora_" in name for name in trained)
    with pytest.raises(
        ValueError, match=r"\['c_attn', 'unembed'\] are no matrices .* \['down', 'gate_up', 'out', 'qkv'\]"
    ):
        Adapter(network("modern"), config(lora_targets=("qkv", "unembed", "c_attn")))


def test_full_fine_tuning_does_not_wait_for_peft():
    code = "import sys, gptcore.training.finetune; assert not {'peft', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
