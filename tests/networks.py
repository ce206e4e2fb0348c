"""What tests do with small networks."""

import torch


def moved(model, size=0.1):
    """Weights away from the zeros and ones they start at, so that each one matters."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * size)
    return model
