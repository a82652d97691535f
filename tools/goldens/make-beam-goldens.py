"""Writes test/fixtures/beam-search/golden.json: what Hugging Face transformers' beam search finds on the golden models.

usage: python tools/goldens/make-beam-goldens.py   (needs torch and transformers)
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

FIXTURES = Path(__file__).parents[2] / "test" / "fixtures"
MODELS = ["llama", "qwen3", "mistral-swa", "gemma3"]


def variants(stop, default_stop):
    """(width, length penalty, early stopping, max tokens, stop tokens, min tokens, outputs)"""
    return [
        (3, 1.0, False, 12, default_stop, 0, 3),
        (4, 0.5, False, 16, stop[:1], 0, 4),
        (3, 1.0, True, 16, stop, 0, 3),
        (4, 2.0, "never", 14, stop, 0, 2),
        (2, -0.5, "never", 14, stop, 0, 2),
        (5, 1.0, True, 10, stop, 6, 5),
        (1, 1.0, False, 8, default_stop, 0, 1),
        (6, 0.0, False, 12, stop, 0, 6),
    ]


def search(model, ids, variant):
    width, penalty, early, max_tokens, stop, min_tokens, n = variant
    config = GenerationConfig(
        num_beams=width,
        length_penalty=penalty,
        early_stopping=early,
        max_new_tokens=max_tokens,
        min_new_tokens=min_tokens or None,
        eos_token_id=stop,
        pad_token_id=0,
        num_return_sequences=n,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    with torch.no_grad():
        result = model.generate(torch.tensor([ids]), generation_config=config)
    sequences = result.sequences.tolist()
    if width == 1:
        return [sequence[len(ids) :] for sequence in sequences], None
    lengths = [sum(index >= 0 for index in row) for row in result.beam_indices.tolist()]
    outputs = [s[len(ids) : len(ids) + count] for s, count in zip(sequences, lengths)]
    return outputs, [round(score, 6) for score in result.sequences_scores.tolist()]


def goldens(name):
    directory = FIXTURES / "hf-tiny" / name
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    cases = json.loads((directory / "golden.json").read_text())["cases"]
    for number, case in list(enumerate(cases))[1:]:
        beams = [sequence[len(case["ids"]) :] for sequence in case["beam3"]]
        stop = [beams[0][3], beams[1][5]]  # tokens that the search comes across
        for variant in variants(stop, [model.generation_config.eos_token_id]):
            outputs, scores = search(model, case["ids"], variant)
            width, penalty, early, max_tokens, stops, min_tokens, n = variant
            yield dict(model=name, case=number, width=width, lengthPenalty=penalty, earlyStopping=early,
                       maxTokens=max_tokens, stop=stops, minTokens=min_tokens, n=n, outputs=outputs,
                       scores=scores)  # fmt: skip


lines = [json.dumps(golden, separators=(",", ":")) for name in MODELS for golden in goldens(name)]
(FIXTURES / "beam-search" / "golden.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
