"""Lines of credit written by hand: V is what a test needs it to be."""

from stepcredit.results.credit_lines import CreditEpisode, CreditObservation, CreditRun, CreditStep, CreditToken


def run(models=("oreo",), total=3, **more):
    about = {"episodes": ["logs"], "levels": ["token"] * len(models), "step_delimiters": ["\n"], "versions": {}}
    return CreditRun(value_models=list(models), total=total, **{**about, **more})


def episode(number, steps, verdict="wrong", models=1, shifts=False, first=0.5, **more):
    """Lines of a response.

    Args:
        number: its number.
        steps: per step its text and V after it; or the text of an observation. Words are tokens, over which V moves
            evenly; every model but the first has V of 1 minus that of the first.
        verdict, first: the verdict, and V before the first step.
        models, shifts: number of value models; whether there are log-ratios and KL.
        more: fields of the episode.
    """
    about = {
        "source": "logs", "prompt_id": f"p{number}", "sample": 0, "prompt": f"Question {number}?",
        "reward": float(verdict == "right"), "extracted": "13", "answer": "12",
    } | more  # fmt: skip
    yield CreditEpisode(episode=number, verdict=verdict, value=_each(first, models), **about)
    before, position, turn, step = first, 5, 0, 0
    for part in steps:
        if isinstance(part, str):
            yield CreditObservation(episode=number, role="tool", text=part)
            turn += 1
            continue
        text, after = part
        words = text.split(" ")
        words = [*(word + " " for word in words[:-1]), words[-1]]
        shift = 0.25 if shifts else None
        numbers = {"log_ratio": shift and shift * len(words), "kl": shift and 0.5 * len(words)}
        false = "false" in text
        yield CreditStep(
            episode=number, turn=turn, step=step, end=text == "<eos>", text=text, value=_each(after, models),
            change=_each(None if after is None else after - before, models, 0.0), false_equation=false, **numbers,
        )  # fmt: skip
        inside = 0.0 if after is None else (after - before) / len(words)
        for k, word in enumerate(words):
            change = None if after is None else inside
            yield CreditToken(
                episode=number, step=step, position=position, id=100 + k, text=word,
                value=_each(before + k * inside, models), change=_each(change, models, 0.0), log_ratio=shift,
                kl=shift and 2 * shift,
            )  # fmt: skip
            position += 1
        before, step = before if after is None else after, step + 1


def _each(number, models, mirror=1.0):
    """A number per model; for all but the first one `mirror` minus it."""
    if number is None:
        return [None] * models
    return [round(number, 6), *[round(mirror - number, 6)] * (models - 1)]
