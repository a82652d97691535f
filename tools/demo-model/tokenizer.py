"""Trains the tokenizer: byte-level BPE whose digits are single tokens.

    python tokenizer.py

Reads .work/train.jsonl and writes .work/tokenizer.json and .work/tokenizer_config.json, which
export.py puts beside the weights.
"""

import itertools
import json
import re
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"
ROOT = HERE.parent.parent

VOCAB_SIZE = 1536
TRAINING_DOCUMENTS = 40_000
END_OF_TEXT, TURN_START, TURN_END, PAD = SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def read_documents(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def training_texts():
    """Texts without special tokens; those beyond ASCII are left out.

    Merges learned from foreign greetings and emojis would turn each into one token. Without them
    such characters stay split into bytes, as they are in a large model's rare text.
    """
    documents = itertools.islice(read_documents(WORK / "train.jsonl"), TRAINING_DOCUMENTS)
    for document in documents:
        if document["text"].isascii():
            yield from re.split(r"<\|\w+\|>", document["text"])


def train_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Adds no tokens: a document begins at position 0 with its own first token.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    return tokenizer


def tokenizer_config(context_length):
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): added_token(text) for i, text in enumerate(SPECIALS)},
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": context_length,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def added_token(text):
    return {
        "content": text,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    tokenizer = train_tokenizer()
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    tokenizer.save(str(WORK / "tokenizer.json"))
    write_json(WORK / "tokenizer_config.json", tokenizer_config(1024))


if __name__ == "__main__":
    main()
