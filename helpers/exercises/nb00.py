"""The exercises of notebook 00: temperature, a text in two parts, BlinkDL's order of settings, a loop that writes."""

import torch
from torch import Tensor

from .checking import Exercise
from .models import random_model

# 00.1


def nearly_certain(logits, share):
    for step in range(20):
        temperature = round(1 - 0.05 * step, 2)
        if (logits / temperature).softmax(dim=-1).max() >= share:
            return temperature
    return None


def _multiplied(logits, share):
    return next((t for t in _temperatures() if (logits * t).softmax(dim=-1).max() >= share), None)


def _probabilities_divided(logits, share):
    return next((t for t in _temperatures() if logits.softmax(dim=-1).max() / t >= share), None)


def _from_below(logits, share):
    return next((t for t in reversed(_temperatures()) if (logits / t).softmax(dim=-1).max() >= share), None)


def _share_returned(logits, share):
    return (logits / nearly_certain(logits, share)).softmax(dim=-1).max()


def _temperatures() -> list[float]:
    return [round(1 - 0.05 * step, 2) for step in range(20)]


def _peaked_logits() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.tensor([2.0, 1.0, 0.0]), 0.9),
        (torch.tensor([0.0, 3.0, 2.5, -1.0]), 0.75),
        (torch.randn(50, generator=generator), 0.5),
    ]


# 00.2


def read_in_two(model, ids, first):
    with torch.no_grad():
        state = model(ids[:, :first]).state
        return model(ids[:, first:], state=state).logits[0, -1]


def _without_state(model, ids, first):
    return model(ids[:, first:]).logits[0, -1].detach()


def _beginning_again(model, ids, first):
    return model(ids, state=model(ids[:, :first]).state).logits[0, -1].detach()


def _one_token_twice(model, ids, first):
    return model(ids[:, first - 1 :], state=model(ids[:, :first]).state).logits[0, -1].detach()


def _first_sitting_only(model, ids, first):
    return model(ids[:, :first]).logits[0, -1].detach()


def _reading_cases() -> list[tuple]:
    model = random_model()
    ids = torch.randint(1, 64, (1, 9), generator=torch.Generator().manual_seed(1))
    return [(model, ids, 4), (model, ids, 8), (model, ids.flip(1), 1)]


# 00.3


def blinkdl_probabilities(logits, temperature, p):
    probabilities, order = logits.softmax(dim=-1).sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = probabilities.where(before < p, 0) ** (1 / temperature)
    result = torch.zeros_like(logits)
    result[order] = probabilities / probabilities.sum()
    return result


def _temperature_first(logits, temperature, p):
    return blinkdl_probabilities(logits / temperature, 1.0, p)


def _not_sharing_one(logits, temperature, p):
    kept = blinkdl_probabilities(logits, 1.0, p) > 0
    return logits.softmax(dim=-1).where(kept, 0) ** (1 / temperature)


def _sorted_answer(logits, temperature, p):
    return blinkdl_probabilities(logits.sort(descending=True).values, temperature, p)


def _divided_by_temperature(logits, temperature, p):
    return blinkdl_probabilities(logits, 1.0, p)


def _last_one_dropped(logits, temperature, p):
    probabilities, order = logits.softmax(dim=-1).sort(descending=True)
    probabilities = probabilities.where(probabilities.cumsum(dim=-1) < p, 0) ** (1 / temperature)
    result = torch.zeros_like(logits)
    result[order] = probabilities / probabilities.sum()
    return result


def _sampling_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    few = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    many = 3 * torch.randn(200, generator=generator)
    return [(few, 2.0, 0.6), (many, 1.5, 0.85), (many, 0.7, 0.95)]


# 00.4


def write_greedily(model, ids, count):
    written, unread, state = [], ids, None
    with torch.no_grad():
        for _ in range(count):
            output = model(unread, state=state)
            unread, state = output.logits[:, -1:].argmax(dim=-1), output.state
            written.append(unread.item())
    return written


def _everything_again(model, ids, count):
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    return ids[0, -count:].tolist()


def _forgetful(model, ids, count):
    written = []
    for _ in range(count):
        ids = model(ids).logits[:, -1:].argmax(dim=-1)
        written.append(ids.item())
    return written


def _state_of_the_prompt(model, ids, count):
    output = model(ids)
    written = [output.logits[0, -1].argmax().item()]
    for _ in range(count - 1):
        ids = torch.tensor([[written[-1]]])
        written.append(model(ids, state=output.state).logits[0, -1].argmax().item())
    return written


def _with_the_prompt(model, ids, count):
    return ids[0].tolist() + write_greedily(model, ids, count)


class ReadsOnce:
    """A model that refuses to read a text twice: without a state it reads as much as the prompt, with one a token."""

    def __init__(self, model, prompt_length: int):
        self.model, self.prompt_length = model, prompt_length

    def __call__(self, ids: Tensor, state=None, **settings):
        """Read tokens as the model does.

        Raises:
            RuntimeError: there are more tokens than a loop that has the state needs to read.
        """
        allowed = self.prompt_length if state is None else 1
        if ids.shape[1] > allowed:
            raise RuntimeError(f"the model was given {ids.shape[1]} tokens to read where {allowed} would do")
        return self.model(ids, state=state, **settings)

    def __repr__(self) -> str:
        return "model"


def _writing_cases() -> list[tuple]:
    model = random_model()
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(1, 64, (1, length), generator=generator) for length in (5, 3, 8)]
    return [(ReadsOnce(model, ids.shape[1]), ids, count) for ids, count in zip(prompts, (12, 1, 20), strict=True)]


EXERCISES = (
    Exercise(
        nearly_certain,
        _peaked_logits,
        {
            "The temperature divides the logits; you multiply by it.": _multiplied,
            "Divide the logits, before softmax, not the probabilities.": _probabilities_divided,
            "Begin at 1 and go down; the first temperature that is low enough is the answer.": _from_below,
            "Return the temperature, not the probability that it leads to.": _share_returned,
        },
        "For `\"The King and the\"`, `' King'` has 0.44 at temperature 1 and 0.92 at 0.65. Temperature 0, the limit, "
        "is greedy decoding.",
    ),
    Exercise(
        read_in_two,
        _reading_cases,
        {
            "The second call needs the state of the first: state=.": _without_state,
            "The second call reads the beginning again; give it ids[:, first:] only.": _beginning_again,
            "One token is read twice: the second part begins at number first, not one before.": _one_token_twice,
            "These are the logits after the first part; return those after the last token.": _first_sitting_only,
        },
        "The logits are those of reading all at once, but for rounding: the state is all that the model knows of the "
        "past.",
        reveal=False,
    ),
    Exercise(
        blinkdl_probabilities,
        _sampling_cases,
        {
            "You apply the temperature first, as generate does; here top-p comes first.": _temperature_first,
            "What is kept has to share 1 again: divide by its sum at the end.": _not_sharing_one,
            "Your answer is in sorted order; put each probability back at the place of its token.": _sorted_answer,
            "Dividing probabilities by a number changes nothing once they share 1; raise them to the power 1 / "
            "temperature.": _divided_by_temperature,
            "The token with which p is reached is kept as well: compare what stands before it.": _last_one_dropped,
        },
        "After the door, top-p 0.6 keeps 30 tokens in this order, at any temperature. In the order of `generate`, it "
        "keeps 3 at 0.5 and 545 at 1.5.",
    ),
    Exercise(
        write_greedily,
        _writing_cases,
        {
            "You read the whole text again for each token; give the new token alone, and the state.": _everything_again,
            "You drop the state, so the model sees one token and nothing before it: pass state=.": _forgetful,
            "The state stays that of the prompt; take the new one from each output.": _state_of_the_prompt,
            "Return the new tokens only, without the prompt.": _with_the_prompt,
        },
        "`generate` does the same, and so does `helpers.generation.sampling.stream`, which drives the playground: this "
        "loop, with penalties and a draw.",
        reveal=False,
    ),
)
